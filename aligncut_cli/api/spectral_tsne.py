"""SpectralTSNE: the map and the colours of `tsne` as an estimator of scikit-learn, by the stage's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from aligncut_cli.api.arrays import Float, Prepared, as_seed, open_table, plain
from aligncut_cli.errors import UsageError
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.sampling import draw_rows
from aligncut_cli.maths.tsne import fit_tsne
from aligncut_cli.params import TsneParams
from aligncut_cli.stages.tsne.place import NearestPlaces
from aligncut_cli.viz.colours import colour_range, to_rgb

_DEFAULT = TsneParams()
FEWEST_ROWS = 5


class SpectralTSNE(Prepared, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """t-SNE of eigenvectors to 2-D or 3-D, fitted on sampled rows; any row stands where its nearest sampled one does.

    Parameters
    ----------
    dims         : 3 for colours, 2 for trajectories
    n_samples    : rows that t-SNE is fitted on
    perplexity   : effective number of neighbours; lowered to (n - 1) / 3 where there are too few rows
    iterations   : gradient steps at most; it ends earlier where the divergence hardly falls any more
    engine       : 'auto', 'fft', 'exact' or 'sklearn'
    clip         : share of rows that may saturate at each end of a colour channel
    device       : 'auto', 'cpu', 'cuda' or 'cuda:N'
    random_state : seed; the same integer gives the same bytes on the same machine

    Attributes
    ----------
    embedding_      : (..., dims) float32, places of the rows that it was fitted to
    sample_indices_ : (m,) int64, rows that t-SNE was fitted on, ascending, in C-order over the leading axes
    sample_rows_    : (m, C) float32, these rows
    sample_coords_  : (m, dims) float32, their places, centred
    kl_divergence_  : of the map from the affinities, in nats
    n_iter_         : gradient steps that were taken
    colour_range_   : two (dims,) float64, the places that become 0 and 255
    n_features_in_  : C
    """

    def __init__(
        self,
        dims: int = _DEFAULT.dims,
        *,
        n_samples: int = _DEFAULT.n_sample,
        perplexity: float = _DEFAULT.perplexity,
        iterations: int = _DEFAULT.iterations,
        engine: str = _DEFAULT.engine,
        clip: float = _DEFAULT.clip,
        device: str = "auto",
        random_state: Any = _DEFAULT.seed,
    ) -> None:
        self.dims = dims
        self.n_samples = n_samples
        self.perplexity = perplexity
        self.iterations = iterations
        self.engine = engine
        self.clip = clip
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> SpectralTSNE:
        """Fit the map to sampled rows and place all rows on it.

        X      : (..., C) eigenvectors: array, tensor or Zarr array, read block by block
        y      : ignored
        raises : ValueError (UsageError, BadInput) for parameters out of bounds, fewer than five rows, NaN, infinity
        """
        params = TsneParams(
            dims=plain(self.dims),
            n_sample=plain(self.n_samples),
            perplexity=self.perplexity,
            iterations=plain(self.iterations),
            engine=self.engine,  # type: ignore[arg-type]
            clip=self.clip,
            seed=as_seed(self.random_state),
        )
        table, device = open_table(self, X, reset=True, at_least=FEWEST_ROWS), resolve_device(self.device)
        self.sample_indices_ = draw_rows(table.rows, params.n_sample, seed=params.seed)
        self.sample_rows_ = table.take(self.sample_indices_)
        fit = fit_tsne(
            self.sample_rows_,
            n_dims=params.dims,
            perplexity=params.perplexity,
            iterations=params.iterations,
            engine=params.engine,
            device=device,
            seed=params.seed,
        )
        self.sample_coords_, self.kl_divergence_, self.n_iter_ = fit.coords, fit.kl_divergence, fit.iterations
        self.colour_range_ = colour_range(fit.coords, clip=params.clip)
        self._seed, self._n_rows = params.seed, table.rows
        self._prepared = self._prepare()
        self.embedding_ = table.map(self._prepared.place, self._n_features_out)
        return self

    def transform(self, X: Any) -> Float:
        """Return where rows stand: the place of the sampled row that is nearest.

        X       : (..., C) array, tensor or Zarr array, read block by block
        returns : (..., dims) float32
        raises  : ValueError where X has another number of columns, or holds NaN or infinity
        """
        check_is_fitted(self, "sample_coords_")
        table = open_table(self, X, reset=False)
        if "_prepared" not in vars(self):
            self._prepared = self._prepare()
        return table.map(self._prepared.place, self._n_features_out)

    def to_rgb(self, coords: Any = None) -> NDArray[np.uint8]:
        """Return AlignedCut colours of places in 3-D, one range for all.

        coords  : (..., 3); None for `embedding_`
        returns : (..., 3) uint8: red, green, blue
        raises  : ValueError for a map of two dimensions
        """
        check_is_fitted(self, "sample_coords_")
        places = self.embedding_ if coords is None else np.asarray(coords, dtype=np.float32)
        if self._n_features_out != 3 or places.shape[-1] != 3:
            raise UsageError(
                f"places (..., {places.shape[-1]}) are no colours", do="Fit with dims=3, and give (..., 3)."
            )
        return to_rgb(places, *self.colour_range_)

    def _prepare(self) -> NearestPlaces:
        return NearestPlaces(
            self.sample_rows_,
            self.sample_coords_,
            n_queries=self._n_rows,
            seed=self._seed,
            device=resolve_device(self.device),
        )

    @property
    def _n_features_out(self) -> int:
        return int(self.sample_coords_.shape[1])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
