"""Evaluation: test networks and ensembles, report the results, and compare them with published ones."""

from imgcls.evaluation.ensemble import check_same_images
from imgcls.evaluation.evaluate import data_name, evaluate_member, members, run_evaluation, use_data
from imgcls.evaluation.exported import calibration_pixels, images_of, scores_beside
from imgcls.evaluation.published import check_comparable, compare_scores, published_protocol, published_results

__all__ = [
    "calibration_pixels",
    "check_comparable",
    "check_same_images",
    "compare_scores",
    "data_name",
    "evaluate_member",
    "images_of",
    "members",
    "published_protocol",
    "published_results",
    "run_evaluation",
    "scores_beside",
    "use_data",
]
