"""Switchable Normalization and its rivals. Knows tensors only, and needs torch alone."""

from snvideo.norm.advice import Advice, advise, network_noise
from snvideo.norm.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from snvideo.norm.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from snvideo.norm.convert import Replacement, Replacements, convert_norm
from snvideo.norm.diagnosis import Diagnosis, NormDiagnosis, diagnose
from snvideo.norm.factory import NORMS, create_norm
from snvideo.norm.folding import foldable
from snvideo.norm.functional import batch_statistics, switch_norm
from snvideo.norm.gain import GainChange, gain_changes
from snvideo.norm.importance import Importance, importance, importance_table, start_by_depth
from snvideo.norm.mixture import MixtureSpec
from snvideo.norm.reference_weights import load_reference_weights
from snvideo.norm.statistics import average_statistics, kept_statistics, tracking_layers
from snvideo.norm.step_statistics import one_update
from snvideo.norm.switch_norm import SwitchNorm, SwitchNorm1d, SwitchNorm2d, SwitchNorm3d
from snvideo.norm.weight_standardization import (
    WeightStandardization,
    fold_weight_standardization,
    standardize_weights,
)

__all__ = [
    "NORMS",
    "Advice",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "Diagnosis",
    "GainChange",
    "Importance",
    "MixtureSpec",
    "NormDiagnosis",
    "Replacement",
    "Replacements",
    "SwitchNorm",
    "SwitchNorm1d",
    "SwitchNorm2d",
    "SwitchNorm3d",
    "WeightStandardization",
    "advise",
    "average_statistics",
    "batch_statistics",
    "convert_norm",
    "create_norm",
    "diagnose",
    "fold_weight_standardization",
    "foldable",
    "gain_changes",
    "importance",
    "importance_table",
    "kept_statistics",
    "load_reference_weights",
    "network_noise",
    "one_update",
    "standardize_weights",
    "start_by_depth",
    "switch_norm",
    "tracking_layers",
]
