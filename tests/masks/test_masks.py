from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.inside import ImageNetSegFile
from aligncut_cli.masks import IGNORE, check_mask_size, guess_format, open_masks
from aligncut_cli.masks.imagenet_seg import ImageNetSegMasks
from aligncut_cli.masks.voc import VOC_CLASSES

h5py = pytest.importorskip("h5py")

VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0, 0, 0] * 251 + [224, 224, 192]


def save_png(path: Path, values, *, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8) if mode == "P" else np.asarray(values))
    if mode == "P":
        image.putpalette(VOC_PALETTE)
    elif mode is not None:
        image = image.convert(mode)
    image.save(path)
    return path


def u8(rows) -> np.ndarray:
    return np.array(rows, np.uint8)


class TestPngFolder:
    def test_binary_masks_of_0_and_255_give_background_and_foreground(self, tmp_path):
        save_png(tmp_path / "a.png", u8([[0, 255, 255], [0, 0, 255]]))
        save_png(tmp_path / "b.png", u8([[0, 0], [0, 0]]))
        masks = open_masks(tmp_path, format="auto")
        assert masks.ids == ("a", "b")
        assert masks.classes == ("background", "foreground")
        assert masks.read("a").tolist() == [[0, 1, 1], [0, 0, 1]]
        assert masks.read("b").tolist() == [[0, 0], [0, 0]]

    def test_binary_masks_of_0_and_1_keep_255_as_ignore(self, tmp_path):
        save_png(tmp_path / "a.png", u8([[0, 1, 255]]))
        masks = open_masks(tmp_path, format="png")
        assert masks.n_classes == 2
        assert masks.read("a").tolist() == [[0, 1, IGNORE]]

    def test_one_mask_with_both_1_and_255_says_that_255_is_ignore_everywhere(self, tmp_path):
        save_png(tmp_path / "a.png", u8([[0, 1, 255]]))
        save_png(tmp_path / "b.png", u8([[0, 0, 255]]))
        assert open_masks(tmp_path, format="png").read("b").tolist() == [[0, 0, IGNORE]]

    def test_one_bit_masks_are_binary(self, tmp_path):
        save_png(tmp_path / "a.png", u8([[0, 255]]), mode="1")
        assert open_masks(tmp_path, format="png").read("a").tolist() == [[0, 1]]

    def test_class_indices_with_names_beside_the_masks(self, tmp_path):
        (tmp_path / "classes.txt").write_text("null\nhat\nshoe\n")
        save_png(tmp_path / "a.png", u8([[0, 2, 255]]))
        masks = open_masks(tmp_path, format="png")
        assert masks.classes == ("null", "hat", "shoe")
        assert masks.read("a").tolist() == [[0, 2, IGNORE]]

    def test_class_names_are_found_in_the_parent_folder_or_given(self, tmp_path):
        (tmp_path / "classes.txt").write_text("null\nhat\nshoe\n")
        (tmp_path / "other.txt").write_text("null\nskirt\nshirt\nbag")
        save_png(tmp_path / "masks" / "a.png", u8([[0, 2]]))
        assert open_masks(tmp_path / "masks", format="png").classes == ("null", "hat", "shoe")
        given = open_masks(tmp_path / "masks", format="png", classes=tmp_path / "other.txt")
        assert given.classes == ("null", "skirt", "shirt", "bag")

    def test_unnamed_classes_are_counted_over_all_masks(self, tmp_path):
        save_png(tmp_path / "a.png", u8([[0, 1]]))
        save_png(tmp_path / "b.png", u8([[3, 255]]))
        masks = open_masks(tmp_path, format="png")
        assert masks.classes == ("background", "class 1", "class 2", "class 3")
        assert masks.read("b").tolist() == [[3, IGNORE]]

    def test_palette_masks_give_indices_and_not_colours(self, tmp_path):
        save_png(tmp_path / "a.png", [[0, 2, 255]], mode="P")
        assert open_masks(tmp_path, format="png").read("a").tolist() == [[0, 2, IGNORE]]

    def test_sixteen_bit_masks_can_have_more_than_255_classes(self, tmp_path):
        (tmp_path / "classes.txt").write_text("\n".join(f"c{i}" for i in range(400)))
        save_png(tmp_path / "a.png", np.array([[0, 255, 399]], np.uint16))
        assert open_masks(tmp_path, format="png").read("a").tolist() == [[0, 255, 399]]

    def test_grey_saved_as_rgb_is_read_and_colours_are_refused(self, tmp_path):
        grey = u8([[0, 1]])
        save_png(tmp_path / "a.png", np.stack([grey] * 3, -1))
        assert open_masks(tmp_path, format="png").read("a").tolist() == [[0, 1]]
        save_png(tmp_path / "b.png", np.stack([grey, grey * 7, grey], -1))
        with pytest.raises(BadInput, match="colour picture"):
            open_masks(tmp_path, format="png").read("b")

    def test_nested_ids_and_ids_with_the_photos_suffix(self, tmp_path):
        save_png(tmp_path / "dogs" / "x.1.png", u8([[0, 1]]))
        masks = open_masks(tmp_path, format="png")
        assert masks.ids == ("dogs/x.1",)
        assert masks.read("dogs/x.1.jpg").tolist() == masks.read("dogs/x.1").tolist()

    def test_linked_folders_are_followed_but_not_in_circles_and_hidden_ones_are_not_read(self, tmp_path):
        save_png(tmp_path / "elsewhere" / "a.png", u8([[0, 1]]))
        save_png(tmp_path / "masks" / "b.png", u8([[0, 1]]))
        save_png(tmp_path / "masks" / ".checkpoints" / "b.png", u8([[0, 9]]))
        (tmp_path / "masks" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "masks" / "loop").symlink_to(tmp_path / "masks")
        masks = open_masks(tmp_path / "masks", format="png")
        assert masks.ids == ("b", "link/a")
        assert masks.n_classes == 2

    def test_an_image_without_a_mask_is_named_and_a_mask_without_an_image_is_no_fault(self, tmp_path):
        save_png(tmp_path / "a.png", u8([[0, 1]]))
        save_png(tmp_path / "extra.png", u8([[0, 1]]))
        masks = open_masks(tmp_path, format="png")
        masks.require(["a"])
        assert masks.missing(["a", "b"]) == ["b"]
        with pytest.raises(BadInput, match="No mask for 1 image: 'b'"):
            masks.require(["a", "b"])
        with pytest.raises(BadInput, match="No mask for 1 image: 'b'"):
            masks.read("b")

    @pytest.mark.parametrize("name", ["a1_mask.png", "gt_a1.png", "A1.png"])
    def test_masks_that_are_called_almost_as_their_images_are_pointed_at(self, tmp_path, name):
        save_png(tmp_path / name, u8([[0, 1]]))
        with pytest.raises(BadInput, match=rf"If '{name[:-4]}' is the one of 'a1', name every mask exactly as its"):
            open_masks(tmp_path, format="png").require(["a1"])

    @pytest.mark.parametrize("image_id", ["../secret", "a/../../secret", "/etc/passwd", "..", "", "a\0b", "..\\secret"])
    def test_no_id_leads_out_of_the_folder(self, tmp_path, image_id):
        save_png(tmp_path / "secret.png", u8([[0, 1]]))
        save_png(tmp_path / "masks" / "a.png", u8([[0, 1]]))
        with pytest.raises(BadInput, match="cannot name a mask"):
            open_masks(tmp_path / "masks", format="png").read(image_id)

    def test_a_wrong_size_is_explained(self, tmp_path):
        save_png(tmp_path / "a.png", np.eye(4, 6, dtype=np.uint8))
        masks = open_masks(tmp_path, format="png")
        assert masks.read("a", size=(4, 6)).shape == (4, 6)
        with pytest.raises(BadInput, match=r"6 x 4 pixels .*the image is 12 x 8") as error:
            masks.read("a", size=(8, 12))
        assert "nearest" in str(error.value)
        with pytest.raises(BadInput, match="EXIF orientation"):
            check_mask_size(masks.read("a"), (6, 4), image_id="a")

    def test_a_mask_with_an_orientation_tag_is_turned_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying, shown turned clockwise
        Image.fromarray(u8([[0, 0, 0], [1, 1, 1]])).save(tmp_path / "a.png", exif=exif)
        assert open_masks(tmp_path, format="png").read("a").tolist() == [[1, 0]] * 3

    def test_an_unknown_class_is_refused(self, tmp_path):
        (tmp_path / "classes.txt").write_text("null\nhat\n")
        save_png(tmp_path / "a.png", u8([[0, 2]]))
        with pytest.raises(BadInput, match=r"a\.png has class index 2, but only 2 classes"):
            open_masks(tmp_path, format="png").read("a")

    def test_masks_coded_in_two_ways_are_refused(self, tmp_path):
        save_png(tmp_path / "a.png", u8([[0, 1]]))
        save_png(tmp_path / "b.png", u8([[0, 255]]))
        with pytest.raises(BadInput, match="coded in two ways"):
            open_masks(tmp_path, format="png").read("b")

    def test_a_smoothed_mask_is_not_taken_for_200_classes(self, tmp_path):
        save_png(tmp_path / "a.png", np.arange(200, dtype=np.uint8)[None])
        with pytest.raises(BadInput, match="grey picture"):
            open_masks(tmp_path, format="png").read("a")

    @pytest.mark.parametrize("names", ["only\n", "a\n\nb\n", "a\nb\na\n", ""])
    def test_a_file_that_does_not_name_classes_is_refused(self, tmp_path, names):
        (tmp_path / "classes.txt").write_text(names)
        save_png(tmp_path / "a.png", u8([[0, 1]]))
        with pytest.raises(BadInput, match="does not name classes"):
            open_masks(tmp_path, format="png")

    @pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\0\0\0"])
    def test_a_broken_file_is_bad_input(self, tmp_path, content):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(BadInput, match=r"a\.png: cannot be read as a mask"):
            open_masks(tmp_path, format="png").read("a")

    def test_a_truncated_file_is_bad_input(self, tmp_path):
        rng = np.random.default_rng(0)
        file = save_png(tmp_path / "a.png", rng.integers(0, 3, (64, 64)).astype(np.uint8))
        file.write_bytes(file.read_bytes()[:-400])
        with pytest.raises(BadInput, match="cannot be read as a mask"):
            open_masks(tmp_path, format="png").read("a")

    def test_an_empty_folder_and_no_folder_are_bad_input(self, tmp_path):
        with pytest.raises(BadInput, match="No PNG masks"):
            open_masks(tmp_path, format="png")
        with pytest.raises(BadInput, match="No masks at"):
            open_masks(tmp_path / "nowhere", format="auto")
        with pytest.raises(UsageError, match="png, voc, imagenet-seg"):
            open_masks(tmp_path, format="coco")


def make_voc(root: Path, *, ids=("2007_000033", "2007_000042")) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    wanted = {}
    for image_id in ids:
        labels = rng.integers(0, 21, (5, 7)).astype(np.uint8)
        labels[0] = 255
        save_png(root / "SegmentationClass" / f"{image_id}.png", labels, mode="P")
        (root / "JPEGImages").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(root / "JPEGImages" / f"{image_id}.jpg")
        wanted[image_id] = np.where(labels == 255, IGNORE, labels.astype(np.int16))
    save_png(root / "SegmentationClass" / "2007_000032.png", u8([[0]]), mode="P")  # of the training split
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(ids) + "\n")
    return wanted


class TestVoc:
    @pytest.mark.parametrize("given", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_every_root_is_read_like_the_original(self, tmp_path, given):
        wanted = make_voc(tmp_path / "VOCdevkit" / "VOC2012")
        assert guess_format(tmp_path / given) == "voc"
        masks = open_masks(tmp_path / given, format="voc")
        assert masks.ids == tuple(wanted)
        assert masks.classes == VOC_CLASSES
        assert masks.n_classes == 21
        for image_id, labels in wanted.items():
            read = masks.read(image_id, size=(5, 7))
            assert read.dtype == np.int16
            assert (read == labels).all()
            assert (masks.read(f"JPEGImages/{image_id}.jpg") == labels).all()

    def test_images_outside_the_validation_split_have_no_mask(self, tmp_path):
        make_voc(tmp_path)
        with pytest.raises(BadInput, match="No mask for 1 image: '2007_000032'"):
            open_masks(tmp_path, format="voc").read("2007_000032")

    def test_a_list_that_leads_out_of_the_folder_is_refused(self, tmp_path):
        make_voc(tmp_path)
        (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("../../secret\n")
        with pytest.raises(BadInput, match="cannot name a mask"):
            open_masks(tmp_path, format="voc")

    def test_a_missing_list_mask_or_root_is_bad_input(self, tmp_path):
        with pytest.raises(BadInput, match="No PASCAL VOC 2012"):
            open_masks(tmp_path, format="voc")
        make_voc(tmp_path)
        (tmp_path / "SegmentationClass" / "2007_000033.png").unlink()
        with pytest.raises(BadInput, match="No mask for 1 image"):
            open_masks(tmp_path, format="voc").read("2007_000033")
        (tmp_path / "ImageSets" / "Segmentation" / "val.txt").unlink()
        with pytest.raises(BadInput, match=r"val\.txt: no such file"):
            open_masks(tmp_path, format="voc")

    def test_a_class_that_voc_does_not_have_is_refused(self, tmp_path):
        make_voc(tmp_path, ids=("a",))
        save_png(tmp_path / "SegmentationClass" / "a.png", [[0, 21]], mode="P")
        with pytest.raises(BadInput, match="class index 21"):
            open_masks(tmp_path, format="voc").read("a")


def make_imagenet_seg(path: Path, *, ids=("n01440764_10026", "n01440764_10027", "n02091134_7263")):
    """A file as MATLAB writes it: cells are references, arrays have their axes reversed, text is UTF-16 codes."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    with h5py.File(path, "w") as file:
        refs = file.create_group("#refs#")
        for name in ("img", "gt", "id"):
            file.create_dataset(f"value/{name}", (len(ids), 1), dtype=h5py.ref_dtype)
        for i, image_id in enumerate(ids):
            height, width = 4 + i, 7
            image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            mask = rng.integers(0, 2, (height, width)).astype(np.uint8)
            mask[0, 0] = 255
            images.append(image)
            labels.append(np.where(mask == 255, IGNORE, mask.astype(np.int16)))
            file["value/img"][i, 0] = refs.create_dataset(f"img{i}", data=image.transpose(2, 1, 0)).ref
            inner = refs.create_dataset(f"cell{i}", (1, 1), dtype=h5py.ref_dtype)
            inner[0, 0] = refs.create_dataset(f"gt{i}", data=mask.T).ref
            file["value/gt"][i, 0] = inner.ref
            codes = np.array([[ord(letter)] for letter in image_id], np.uint16)
            file["value/id"][i, 0] = refs.create_dataset(f"id{i}", data=codes).ref
    return images, labels


class TestImageNetSeg:
    def test_masks_and_images_are_read_like_the_original(self, tmp_path):
        images, labels = make_imagenet_seg(tmp_path / "gtsegs_ijcv.mat")
        masks = open_masks(tmp_path / "gtsegs_ijcv.mat", format="auto")
        assert isinstance(masks, ImageNetSegMasks)
        assert masks.ids == ("n01440764_10026", "n01440764_10027", "n02091134_7263")
        assert masks.classes == ("background", "foreground")
        photos = ImageNetSegFile(tmp_path / "gtsegs_ijcv.mat")
        for image_id, image, label in zip(masks.ids, images, labels, strict=True):
            read = photos.read_image(image_id)
            assert read.dtype == np.uint8
            assert (read == image).all()
            assert (masks.read(image_id, size=image.shape[:2]) == label).all()

    def test_it_can_be_sent_to_another_process(self, tmp_path):
        _, labels = make_imagenet_seg(tmp_path / "m.mat")
        masks = open_masks(tmp_path / "m.mat", format="imagenet-seg")
        copy = pickle.loads(pickle.dumps(masks))
        assert (copy.read(copy.ids[1]) == labels[1]).all()

    @pytest.mark.parametrize("ids", [("same", "same"), ("../up", "b"), ("a/b", "c")])
    def test_names_that_are_not_plain_and_distinct_are_replaced_by_positions(self, tmp_path, ids):
        make_imagenet_seg(tmp_path / "m.mat", ids=ids)
        assert open_masks(tmp_path / "m.mat", format="auto").ids == ("000000", "000001")

    def test_grey_photos_become_rgb_and_direct_masks_are_read(self, tmp_path):
        make_imagenet_seg(tmp_path / "m.mat", ids=("a",))
        grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
        with h5py.File(tmp_path / "m.mat", "a") as file:
            file["value/img"][0, 0] = file["#refs#"].create_dataset("grey", data=grey.T).ref
            file["value/gt"][0, 0] = file["#refs#/gt0"].ref
        masks = open_masks(tmp_path / "m.mat", format="imagenet-seg")
        assert (ImageNetSegFile(tmp_path / "m.mat").read_image("a") == grey[..., None].repeat(3, -1)).all()
        assert masks.read("a").shape == (4, 7)

    def test_other_files_are_bad_input(self, tmp_path):
        (tmp_path / "text.mat").write_text("MATLAB 5.0 MAT-file")
        with pytest.raises(BadInput, match="cannot be read as gtsegs_ijcv"):
            open_masks(tmp_path / "text.mat", format="imagenet-seg")
        with h5py.File(tmp_path / "empty.mat", "w") as file:
            file["value/img"] = np.zeros(3)
        with pytest.raises(BadInput, match="not laid out like"):
            open_masks(tmp_path / "empty.mat", format="imagenet-seg")
        with pytest.raises(BadInput, match=r"not a \.mat file"):
            open_masks(tmp_path, format="imagenet-seg")
        with pytest.raises(BadInput, match="not a folder"):
            open_masks(tmp_path / "text.mat", format="png")

    def test_a_mask_of_another_shape_is_bad_input(self, tmp_path):
        make_imagenet_seg(tmp_path / "m.mat", ids=("a",))
        with h5py.File(tmp_path / "m.mat", "a") as file:
            file["value/gt"][0, 0] = file["#refs#"].create_dataset("bad", data=np.zeros((2, 3, 4))).ref
            file["value/img"][0, 0] = file["#refs#/bad"].ref
        masks = open_masks(tmp_path / "m.mat", format="imagenet-seg")
        with pytest.raises(BadInput, match="not integer"):
            masks.read("a")
        with pytest.raises(BadInput, match="not uint8"):
            ImageNetSegFile(tmp_path / "m.mat").read_image("a")
        with pytest.raises(BadInput, match="No mask for 1 image"):
            masks.read("b")

    def test_without_h5py_the_error_says_what_to_install(self, tmp_path, monkeypatch):
        make_imagenet_seg(tmp_path / "m.mat")
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(BadInput, match=r"pip install 'aligncut\[imagenet-seg\]'"):
            open_masks(tmp_path / "m.mat", format="imagenet-seg")

    def test_importing_the_readers_does_not_import_h5py(self):
        code = "import sys, aligncut_cli.masks; sys.exit('h5py' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
