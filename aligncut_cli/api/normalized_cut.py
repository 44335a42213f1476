"""NormalizedCut: the eigenvectors of `eigs` as an estimator of scikit-learn, by the stage's own functions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from aligncut_cli import machine
from aligncut_cli.api.arrays import Float, Prepared, Table, as_seed, open_table, plain
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.maths.clusters import fit_discretization
from aligncut_cli.maths.device import free_memory, resolve_device
from aligncut_cli.maths.eigensolve import solve_normalized_cut
from aligncut_cli.maths.neighbours import choose_search
from aligncut_cli.maths.sampling import FPS_POOL, choose_farthest, draw_rows
from aligncut_cli.params import EigsParams
from aligncut_cli.stages.eigs.carry import EXTENSIONS, Extension, SolvedSample
from aligncut_cli.store.kinds.eigs import (
    CENTRE,
    EIGENVALUES,
    ORTHOGONALIZER,
    RESIDUAL,
    SAMPLE_DEGREE,
    SAMPLE_EIGVECS,
    SAMPLE_FEATURES,
    SAMPLE_NODE,
    Eigs,
)
from aligncut_cli.store.read import open_store
from aligncut_cli.store.resources import parse_size

_DEFAULT = EigsParams()


class NormalizedCut(Prepared, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Leading eigenvectors of the normalized affinity exp(cos - 1) of all rows (AlignedCut, Eq. 3 and 4).

    The eigenproblem is solved exactly on sampled rows and carried to all others; memory does not grow with the rows.
    Where all rows are sampled, each fitted row keeps its exact eigenvector.

    Parameters
    ----------
    n_components : eigenvectors to keep (C); reduced with a warning where fewer rows are sampled
    n_samples    : rows sampled for the exact problem (m)
    sampling     : 'uniform', or 'fps' for farthest points
    extend       : 'knn', the mean over the nearest sampled rows (Eq. 4), or 'nystrom', the Nystrom extension
    n_neighbors  : sampled neighbours averaged per row (K of Eq. 4), with 'knn'
    search       : 'auto', 'flat', 'ivf' or 'torch': how neighbours are found
    device       : 'auto', 'cpu', 'cuda' or 'cuda:N'
    max_memory   : bytes, or a size such as '8G', that the solver may use on the CPU; None for what is free
    random_state : seed; the same integer gives the same bytes on the same machine

    Attributes
    ----------
    eigenvalues_         : (C,) float64, descending
    residuals_           : (C,) float64, ||S x - lambda x|| of the sampled problem
    sample_indices_      : (m,) int64, rows that were sampled, ascending, in C-order over the leading axes
    sample_features_     : (m, D) float32, their unit rows
    sample_eigenvectors_ : (m, C) float32, unit columns, sorted and with fixed signs
    degrees_             : (m,) float64, row sums of the sampled affinity
    n_features_in_       : D
    """

    def __init__(
        self,
        n_components: int = _DEFAULT.n_eig,
        *,
        n_samples: int = _DEFAULT.n_sample,
        sampling: str = _DEFAULT.sample,
        extend: str = _DEFAULT.extend,
        n_neighbors: int = _DEFAULT.neighbors,
        search: str = _DEFAULT.search,
        device: str = "auto",
        max_memory: int | str | None = None,
        random_state: Any = _DEFAULT.seed,
    ) -> None:
        self.n_components = n_components
        self.n_samples = n_samples
        self.sampling = sampling
        self.extend = extend
        self.n_neighbors = n_neighbors
        self.search = search
        self.device = device
        self.max_memory = max_memory
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> NormalizedCut:
        """Sample rows and solve Eq. 3 on them.

        X      : (..., D) features: array, tensor or Zarr array, of which only the sampled rows are read
        y      : ignored
        raises : ValueError (UsageError, BadInput) for parameters out of bounds and arrays that cannot be meant;
                 OutOfResources where the problem does not fit in memory
        """
        params = self._params()
        table = open_table(self, X, reset=True)
        device = resolve_device(self.device)
        self._seed = params.seed
        self.sample_indices_, rows = _sample(table, params, device)
        n_eig = min(params.n_eig, len(rows))
        if n_eig < params.n_eig:
            warnings.warn(
                f"n_components={params.n_eig} is more than the {len(rows)} sampled rows; {n_eig} are kept", stacklevel=2
            )
        solution = solve_normalized_cut(
            rows.cpu(), n_eig=n_eig, device=device, memory_limit=self._memory_limit(device), seed=params.seed
        )
        self.eigenvalues_, self.residuals_ = solution.eigenvalues, solution.residuals
        self.sample_features_, self.sample_eigenvectors_ = rows.cpu().numpy(), solution.eigenvectors
        self.degrees_, self._orthogonalizer = solution.degrees, None
        self._exact, self._n_rows = len(rows) == table.rows, table.rows
        self._prepared = self._prepare()
        return self

    def transform(self, X: Any) -> Float:
        """Carry the eigenvectors to any rows (Eq. 4, or the Nystrom extension).

        X       : (..., D) array, tensor or Zarr array, read block by block
        returns : (..., C) float32
        raises  : ValueError where X has another number of columns, or holds NaN or infinity
        """
        check_is_fitted(self, "sample_eigenvectors_")
        table = open_table(self, X, reset=False)
        if "_prepared" not in vars(self):
            self._prepared = self._prepare()
        return table.map(self._carry, self._n_features_out)

    def cluster(self, n_clusters: int, X: Any = None) -> NDArray[np.int16]:
        """Cut into segments by discretizing the leading eigenvectors (Yu and Shi 2003), fitted on the sampled rows.

        n_clusters : K, 2 .. C; the K leading eigenvectors are used
        X          : (..., D) rows to label; None labels the sampled rows, all rows where all were sampled
        returns    : (...) int16, clusters from 0, the largest first
        raises     : ValueError where K is out of bounds
        """
        check_is_fitted(self, "sample_eigenvectors_")
        sample = self._rotate(self.sample_eigenvectors_)
        rule = fit_discretization(sample, n_clusters=n_clusters, method="rotation", seed=self._seed)
        return rule.label(sample if X is None else self.transform(X))

    @classmethod
    def from_store(cls, path: str | Path, *, group: str | None = None, device: str = "auto") -> NormalizedCut:
        """Return the fitted estimator of an eigs store: on the rows that the stage compared it gives what is stored.

        Rows are features as extracted, or mapped by the alignment where the store was made with one.

        path   : an eigs store
        group  : which of its graphs, where it has several
        device : where to compute
        raises : BadInput for another kind of store, or one centred by slot, which rows alone cannot be; UsageError
                 where the graph is not named
        """
        store = open_store(Path(path), "eigs")
        eigs, record = Eigs(store), store.record
        names = [name for name, _ in eigs.groups]
        if group not in names and (group is not None or len(names) > 1):
            raise UsageError(
                f"{path} has no graph {group!r}" if group else f"{path} has {len(names)} graphs",
                do=f"Give group= one of: {', '.join(names)}.",
            )
        at = names.index(group) if group is not None else 0
        model = eigs.groups[at][1][0].model
        if store.has(CENTRE.at(model)):
            raise BadInput(
                f"{path} was made with --centre slot, so that a row means something with its slot only",
                do="Use aligncut eigs --basis for it, or make the store without --centre slot.",
            )
        params = record["params"]
        found = record["summary"].get("search", {}).get("method", params["search"])
        made = cls(
            params["n_eig"],
            n_samples=params["n_sample"],
            sampling=params["sample"],
            extend=params["extend"],
            n_neighbors=params["neighbors"],
            search=found,
            device=device,
            random_state=params["seed"],
        )
        made._take(store, eigs, at)
        return made

    def _take(self, store: Any, eigs: Eigs, at: int) -> None:
        """Take over the solution of one graph."""
        self._seed = self._params().seed
        self.eigenvalues_, self.residuals_ = store.read(EIGENVALUES.at(), at), store.read(RESIDUAL.at(), at)
        self.sample_indices_, self.degrees_ = store.read(SAMPLE_NODE.at(), at), store.read(SAMPLE_DEGREE.at(), at)
        self.sample_features_ = store.read(SAMPLE_FEATURES.at(), at)
        self.sample_eigenvectors_ = store.read(SAMPLE_EIGVECS.at(), at)
        orthogonal = store.has(ORTHOGONALIZER.at())
        self._orthogonalizer = store.read(ORTHOGONALIZER.at(), at) if orthogonal else None
        self.n_features_in_ = self.sample_features_.shape[1]
        self._n_rows = eigs.axes.n_group_nodes(eigs.groups[at][1])
        self._exact = self._n_rows == len(self.sample_features_)
        self._prepared = self._prepare()

    def _params(self) -> EigsParams:
        """Return the stage's parameters, which are checked as they are made."""
        return EigsParams(
            n_eig=plain(self.n_components),
            n_sample=plain(self.n_samples),
            sample=self.sampling,  # type: ignore[arg-type]
            extend=self.extend,  # type: ignore[arg-type]
            neighbors=plain(self.n_neighbors),
            search=self.search,  # type: ignore[arg-type]
            seed=as_seed(self.random_state),
        )

    def _memory_limit(self, device: torch.device) -> int:
        on_gpu = free_memory(device)
        if on_gpu is not None:
            return on_gpu
        if self.max_memory is None:
            return machine.memory_limit()
        return parse_size(self.max_memory) if isinstance(self.max_memory, str) else int(self.max_memory)

    def _prepare(self) -> tuple[Extension, _Lookup | None]:
        """Make what carries eigenvectors, and where all rows are sampled what finds them again."""
        device = resolve_device(self.device)
        sample = SolvedSample(
            torch.from_numpy(self.sample_features_).to(device),
            torch.from_numpy(self.sample_eigenvectors_).to(device),
            self.eigenvalues_,
            self.degrees_,
        )
        m, dim = self.sample_features_.shape
        search = choose_search(method=self.search, n_queries=self._n_rows, n_sample=m, dim=dim, device=device)
        extension = EXTENSIONS[self.extend](sample, neighbors=plain(self.n_neighbors), search=search, seed=self._seed)
        return extension, _Lookup(self.sample_features_) if self._exact else None

    def _carry(self, rows: Float) -> Float:
        extension, lookup = self._prepared
        unit = unit_rows(torch.from_numpy(rows).to(resolve_device(self.device)))
        carried: Float = extension.extend(unit).cpu().numpy()
        if lookup is not None:
            known, place = lookup.find(unit.cpu().numpy())
            carried[known] = self.sample_eigenvectors_[place[known]]
        return self._rotate(carried)

    def _rotate(self, vectors: Float) -> Float:
        if self._orthogonalizer is None:
            return vectors
        return (vectors.astype(np.float64) @ self._orthogonalizer).astype(np.float32)

    @property
    def _n_features_out(self) -> int:
        return int(self.sample_eigenvectors_.shape[1])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _sample(table: Table, params: EigsParams, device: torch.device) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Choose rows as the stage does, uniformly or by farthest points among some: (m,), and unit rows (m, D)."""
    count = min(params.n_sample, table.rows)
    pool = count if params.sample == "uniform" else min(FPS_POOL * count, table.rows)
    nodes = draw_rows(table.rows, pool, seed=params.seed)
    rows = unit_rows(torch.from_numpy(table.take(nodes)).to(device))
    if params.sample == "fps":
        chosen = choose_farthest(rows.cpu().numpy(), count, seed=params.seed)
        nodes, rows = nodes[chosen], rows[torch.from_numpy(chosen).to(device)]
    return nodes, rows


class _Lookup:
    """Finds rows that are equal to a sampled one, by a hash of their bits.

    rows : (m, D) float32
    """

    def __init__(self, rows: Float) -> None:
        self._rows = rows
        self._factors = np.random.default_rng(0).integers(1, 2**63, size=rows.shape[1], dtype=np.uint64) | np.uint64(1)
        hashes = self._hash(rows)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def find(self, rows: Float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which of rows (n, D) are sampled ones, (n,), and the first equal sampled row of each, (n,)."""
        at = np.minimum(np.searchsorted(self._sorted, self._hash(rows)), len(self._sorted) - 1)
        place = self._order[at]
        return (self._rows[place] == rows).all(axis=1), place

    def _hash(self, rows: Float) -> NDArray[np.uint64]:
        bits = (rows + np.float32(0)).view(np.uint32).astype(np.uint64)  # adding zero makes -0 the same as 0
        mixed: NDArray[np.uint64] = bits @ self._factors
        return mixed
