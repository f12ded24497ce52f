"""Recorded neurons: their responses, tuning, what attention does to them, and networks beside them."""

from __future__ import annotations

from featattn_neuro.schema.base import Kind, Variable
from featattn_neuro.schema.parts import integer, text

NEURAL = Kind(
    "NEURAL",
    "responses of recorded neurons, one row per presentation; NaN where a unit was not recorded",
    {"response": Variable(("trial", "unit"), "float", "response; attribute units says spikes or spikes/s")},
    {
        "trial": integer("trial", meaning="index of the presentation", required=True),
        "unit": text("unit", meaning="id of the neuron", required=True),
        "stimulus": text("trial", meaning="id of the stimulus shown", required=True),
        "condition": text("trial", meaning="attention or other condition"),
        "repetition": integer("trial", meaning="how many times the stimulus had been shown before"),
        "session": text("trial", meaning="recording session"),
        "level": Variable(("trial",), "float", "value of the stimulus parameter (disparity in degrees, …)", False),
        "label": text("trial", meaning="class of the stimulus shown"),
        **{
            name: Variable(
                ("trial",), "float", f"{name.replace('_', ' ')} of the grating shown, as in ACTIVATIONS", False
            )
            for name in ("orientation", "spatial_frequency", "phase", "contrast")
        },
        "direction": Variable(("trial",), "float", "direction of motion, degrees of period 360", False),
        "onset": Variable(("trial",), "float", "time of the event that windows are counted from, s", False),
        "duration": Variable(("trial",), "float", "length of the window that spikes were counted in, s", False),
        "area": text("unit", meaning="brain area"),
        "subject": text("unit", meaning="animal"),
        "true_gain": Variable(("unit",), "float", "simulated neurons: factor of attention", False),
        "true_shift": Variable(("unit",), "float", "simulated neurons: response that attention adds", False),
        "true_exponent": Variable(("unit",), "float", "simulated neurons: power of the tuning under attention", False),
        "true_narrowing": Variable(("unit",), "float", "simulated neurons: κ attended / unattended", False),
    },
)

_INDICES = {
    "modulation_depth": "(max - min)/(max + min) of the mean responses",
    "sparseness": "lifetime sparseness of the mean responses (Vinje & Gallant 2000)",
    "orientation_index": "length of the mean vector of orientations, 1 - circular variance",
    "direction_index": "length of the mean vector of directions",
}

TUNING = Kind(
    "TUNING",
    "tuning curves of units over a stimulus parameter",
    {
        "curve": Variable(("unit", "level"), "float", "mean response at the level"),
        "sem": Variable(("unit", "level"), "float", "standard error of that mean over trials", False),
        "n_trials": Variable(("unit", "level"), "int", "trials (or samples) at the level", False),
        "status": Variable(("unit",), "text", "reason code, see STATUS"),
        "low": Variable(
            ("unit", "level"), "float", "lower end of the t interval of the mean (attribute confidence)", False
        ),
        "high": Variable(("unit", "level"), "float", "upper end", False),
        "p_selective": Variable(("unit",), "float", "that the response is the same at all levels", False, (), 0, 1),
        "preferred_level": Variable(("unit",), "float", "level with the largest mean response", False),
        **{
            f"{name}{end}": Variable(("unit",), "float", f"{meaning}{more}", False, (), 0, 1)
            for name, meaning in _INDICES.items()
            for end, more in (("", ""), ("_floor", ", mean over permutations of the levels"))
        },
        "reliability": Variable(("unit",), "float", "Spearman–Brown split-half reliability over stimuli", False),
        "fano_level": Variable(("unit", "level"), "float", "variance over mean of the counts at the level", False),
        "fano": Variable(("unit",), "float", "median over the unit's levels with mean count above min_mean", False),
        "noise_correlation": Variable(
            ("unit", "other_unit"), "float", "of trials of one stimulus, z-scored within it; NaN: not together", False
        ),
        "fit": Variable(
            ("unit", "fit_level"), "float", "fitted curve (attribute fit_form), units of the responses", False
        ),
        "fit_baseline": Variable(("unit",), "float", "of the fitted curve, units of the responses", False),
        "fit_amplitude": Variable(("unit",), "float", "height above the baseline, units of the responses", False),
        "fit_preferred": Variable(("unit",), "float", "level of the fitted peak", False),
        "fit_width": Variable(("unit",), "float", "kappa of von Mises, SD of a Gaussian or of the log level", False),
        "fit_half_width": Variable(("unit",), "float", "half width at half height from the trough", False),
        "fit_r2": Variable(("unit",), "float", "share of the variance of the means that the curve explains", False),
        "fit_status": text("unit", meaning="reason code of the fit, see STATUS"),
        "n_shared": Variable(("unit", "other_unit"), "int", "trials that the pair was recorded in together", False),
    },
    {
        "unit": text("unit", meaning="id of the unit", required=True),
        "level": Variable(("level",), "float", "value of the stimulus parameter; counts levels that are names", True),
        "level_name": text("level", meaning="the level where it is a name"),
        "other_unit": text("other_unit", meaning="the same ids as unit"),
        "fit_level": Variable(("fit_level",), "float", "levels at which the fitted curve is given", False),
        "area": text("unit", meaning="brain area"),
        "subject": text("unit", meaning="animal"),
        "layer": text("unit", meaning="dotted module name of the layer"),
        "channel": integer("unit", meaning="index of the filter in its layer"),
    },
)

_MATCHED = ("layer", "measure")
MATCH = Kind(
    "MATCH",
    "how well units of a network match recorded neurons",
    {
        "score": Variable(("layer", "measure"), "float", "score, see the measure's name", extra=("neural_unit",)),
        "ceiling": Variable(("measure",), "float", "named noise ceiling of the score", False, extra=("neural_unit",)),
        "ceiling_name": text("measure", meaning="what `ceiling`, or `ceiling_low` and `ceiling_high`, is"),
        "ceiling_low": Variable(("measure",), "float", "lower noise ceiling, in the units of the score", False),
        "ceiling_high": Variable(("measure",), "float", "upper noise ceiling, in the units of the score", False),
        "neuron_score": Variable((*_MATCHED, "neural_unit"), "float", "cross-validated r of each neuron", False),
        "neuron_reliability": Variable(("neural_unit",), "float", "Spearman–Brown split-half reliability", False),
        "explained": Variable(_MATCHED, "float", "median over neurons of r|r| / reliability", False),
        "corrected": Variable(_MATCHED, "float", "median over neurons of r / square root of reliability", False),
        "chosen_layer": text("measure", "half", meaning="layer with the best score on this half of the stimuli"),
        "chosen_score": Variable(("measure", "half"), "float", "score of that layer on the other half", False),
        "score_gained": Variable(_MATCHED, "float", "the score with gains on", False),
        "difference": Variable(_MATCHED, "float", "score with gains on minus without", False),
        "difference_low": Variable(_MATCHED, "float", "lower end of its 95 % jackknife interval over stimuli", False),
        "difference_high": Variable(_MATCHED, "float", "upper end", False),
        "n_values": integer("layer", meaning="filters whose tuning value was compared"),
        "n_undefined": integer(
            *_MATCHED, meaning="neurons without a cross-validated r: too few responses, or constant"
        ),
    },
    {
        "layer": text("layer", meaning="layer of the network"),
        "measure": text("measure", meaning="name of the score"),
        "neural_unit": text("neural_unit", meaning="id of the neuron"),
        "half": text("half", meaning="half of the stimuli that chose the layer"),
    },
)

_EFFECT = ("unit",)
ATTENTION = Kind(
    "ATTENTION",
    "what attention, or a set of gains, does to each unit's responses",
    {
        "index": Variable(("stimulus", "unit"), "float", "(attended - unattended) / their sum, per stimulus", False),
        "mean_index": Variable(_EFFECT, "float", "the same of the mean responses over stimuli; NaN for 0/0"),
        "model": text("unit", meaning="model that the criterion chose", required=True),
        "gain": Variable(("model_name", "unit"), "float", "factor g of the model; 1 where it has none"),
        "gain_low": Variable(("model_name", "unit"), "float", "lower end of its interval", False),
        "gain_high": Variable(("model_name", "unit"), "float", "upper end", False),
        "shift": Variable(("model_name", "unit"), "float", "added response b, units of the responses; 0 if none"),
        "shift_low": Variable(("model_name", "unit"), "float", "lower end of its interval", False),
        "shift_high": Variable(("model_name", "unit"), "float", "upper end", False),
        "exponent": Variable(("model_name", "unit"), "float", "power of the tuning; > 1 is narrower; 1 if none"),
        "exponent_low": Variable(("model_name", "unit"), "float", "lower end of its interval", False),
        "exponent_high": Variable(("model_name", "unit"), "float", "upper end", False),
        "width_change": Variable(_EFFECT, "float", "width attended / unattended - 1, width model", False),
        "curve_width": Variable(
            _EFFECT, "float", "unattended tuning: half width at half height, units of the parameter", False
        ),
        "curve_width_attended": Variable(_EFFECT, "float", "the same of the attended tuning", False),
        "curve_width_change": Variable(
            _EFFECT, "float", "attended / unattended - 1; baseline and amplitude free in each condition", False
        ),
        "curve_width_change_low": Variable(_EFFECT, "float", "lower end of its interval", False),
        "curve_width_change_high": Variable(_EFFECT, "float", "upper end", False),
        "p_width": Variable(_EFFECT, "float", "likelihood ratio: two widths against one", False, low=0, high=1),
        "log_likelihood": Variable(("model_name", "unit"), "float", "maximised; additive constant dropped", False),
        "bic": Variable(("model_name", "unit"), "float", "Bayesian information criterion minus that of the best"),
        "aic": Variable(("model_name", "unit"), "float", "Akaike's, likewise; overfits, for information", False),
        "held_out": Variable(("model_name", "unit"), "float", "leave-stimuli-out log likelihood - the best's", False),
        "p_both": Variable(
            _EFFECT, "float", "likelihood ratio: both against the better of gain and shift", False, low=0, high=1
        ),
        "dispersion": Variable(_EFFECT, "float", "phi of variance = mean + phi mean^2; 0 = Poisson", False),
        "converged": Variable(("model_name", "unit"), "int", "1 if the maximum was found", False),
        "status": text("unit", meaning="reason code, see STATUS", required=True),
        "preference_slope": Variable(
            _EFFECT, "float", "ratio on rank of the stimulus, 0 = preferred … 1 = least; expected negative", False
        ),
        "similarity_slope": Variable(
            ("stimulus",), "float", "ratio on tuning value over units, per image; beta for tuning gains", False,
            extra=("layer",),
        ),
        "selectivity_slope": Variable(("layer",), "float", "mean index on selectivity over units", False),
        "selectivity_rho": Variable(("layer",), "float", "Spearman of the same", False, low=-1, high=1),
        "selectivity": Variable(_EFFECT, "float", "what the slope is on; mean over the halves of the repeats", False),
        "profile_ratio": Variable(
            ("layer", "distance"), "float", "attended / unattended by distance from the preferred stimulus, mean over "
            "units", False,
        ),
        "profile_sem": Variable(("layer", "distance"), "float", "standard error of that mean over units", False),
        "profile_fit": Variable(("layer", "shape", "distance"), "float", "fitted shape at the distance", False),
        "profile_bic": Variable(("layer", "shape"), "float", "BIC of the shape minus that of the best", False),
        "profile_error": Variable(("layer", "shape"), "float", "mean squared error, units left out in folds", False),
        "profile_parameter": Variable(
            ("layer", "shape", "profile_term"), "float", "parameters of the shapes; NaN: the shape has no such", False
        ),
        "profile_shape": Variable(("layer",), "text", "shape that BIC and left-out error both prefer, or ''", False),
    },
    {
        "unit": text("unit", meaning="id of the unit", required=True),
        "layer": Variable(("layer",), "text", "layer of the network, or brain area", False),
        "unit_layer": text("unit", meaning="layer, or brain area, of the unit"),
        "stimulus": text("stimulus", meaning="id of the stimulus"),
        "model_name": text("model_name", meaning="none, multiplicative, additive, both, width", required=True),
        "distance": Variable(
            ("distance",), "float", "from the preferred stimulus: rank in [0, 1], or units of the parameter", False
        ),
        "shape": text("shape", meaning="constant, linear, surround"),
        "profile_term": text("profile_term", meaning="a, b, A, s, B, t: see arrays.similarity_profile"),
        "true_gain": Variable(("unit",), "float", "factor that a simulated neuron was given", False),
        "true_shift": Variable(("unit",), "float", "added response that it was given", False),
        "true_exponent": Variable(("unit",), "float", "power that it was given", False),
        "true_narrowing": Variable(("unit",), "float", "κ attended / unattended that it was given", False),
    },
)  # fmt: skip

DISSIMILARITY = Kind(
    "DISSIMILARITY",
    "dissimilarity matrices over stimuli",
    {
        "dissimilarity": Variable(
            ("stimulus", "other_stimulus"), "float", "0 on the diagonal, symmetric", extra=("subject", "layer")
        )
    },
    {
        "stimulus": text("stimulus", meaning="id of the stimulus", required=True),
        "other_stimulus": text("other_stimulus", meaning="the same ids", required=True),
        "subject": text("subject", meaning="subject"),
        "layer": text("layer", meaning="layer of the network"),
    },
)
