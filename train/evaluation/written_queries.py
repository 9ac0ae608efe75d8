"""Questions as a person would type them: sentences written by hand for each coarse activity, and what they find.

No template made them, and they share no wording with the captions nor with the label prompts (a test compares runs of
words): what they find, they find by meaning. Written before any model was asked, and not changed by what they found.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from casita.train.evaluation.bootstrap import BootstrapClusters, intervals
from casita.train.metrics.ranking import NAMES, Ranked, chance_scores, score_queries

PARAPHRASES: Mapping[str, tuple[str, ...]] = {
    "Sleep": (
        "He went off to dreamland hours ago and has not stirred since.",
        "When was grandma lying under the blankets with her eyes closed?",
        "Snoring away, lights out, dead to the world.",
        "Show me the times she was getting her eight hours.",
        "Tucked in and slumbering like a baby.",
    ),
    "Bed_to_toilet": (
        "Did he have to get out from under the covers because nature called at three?",
        "She stumbled half awake along the corridor to relieve her bladder and crawled back under the duvet.",
        "Interrupted slumber: one brief pee, then straight to the pillow again.",
        "How often is his slumber broken by bathroom visits?",
        "Midnight urge, sleepy steps, a flush, and the mattress again.",
    ),
    "Cook": (
        "Something is simmering on the burner and onions are being diced.",
        "When did mom whip up supper?",
        "The chef of the house is at it again: pots, pans, the oven.",
        "Frying eggs and toasting bread.",
        "Is anyone fixing a hot dish right now?",
    ),
    "Eat": (
        "Digging in: knife, fork and a full plate.",
        "Did he finish his porridge?",
        "Sitting down to dine and swallow the last crumbs.",
        "She is sipping tea and nibbling at a sandwich.",
        "When does the old lady take in her calories?",
    ),
    "Work": (
        "Wiping surfaces, hoovering and giving the geraniums a drink.",
        "Is dad still bent over his laptop answering emails?",
        "Dull duties are being ticked off one by one.",
        "Scrubbing plates, mopping floors, filing documents.",
        "She sat with pen and envelope to deal with her correspondence.",
    ),
    "Relax": (
        "Feet up before the screen, laughing at a sitcom.",
        "When did he unwind with a good novel?",
        "An hour of idleness on the couch.",
        "She watches some thriller and does nothing else.",
        "Chilling out after a long shift.",
    ),
    "Bathing": (
        "Is he under the shower head, lathering up?",
        "A soak in the tub with lots of bubbles.",
        "Water runs over shoulders, shampoo rinses out of the hair.",
        "When did she last scrub her whole skin?",
        "Stepping out of the tub, dripping, reaching for the towel.",
    ),
    "Personal_hygiene": (
        "Toothpaste, floss, mouthwash.",
        "He trims his beard at the mirror.",
        "Lipstick, mascara and a fresh hairdo.",
        "When does she freshen up at the sink?",
        "Clipping nails and splashing the cheeks with cold water.",
    ),
    "Toilet": (
        "Somebody is on the throne.",
        "Did he have to go number two?",
        "A brief tinkle amid other things.",
        "The seat goes down, a while later the cistern refills.",
        "When did grandpa empty his bowels?",
    ),
    "Dress": (
        "Which shirt goes with these trousers?",
        "Buttoning a blouse and pulling up the socks.",
        "He rummages through the closet for a jacket.",
        "When did she slip out of her pyjamas into day clothes?",
        "Deciding between the blue suit and the grey one.",
    ),
    "Take_medicine": (
        "Did she remember her drugs this morning?",
        "Washing down two capsules with a gulp of water.",
        "He counts his tablets out for Monday, Tuesday and the rest.",
        "A remedy against nausea is being taken.",
        "Blood pressure treatment, by the spoon or from the blister.",
    ),
    "Phone_call": (
        "He chats with his daughter long distance.",
        "Hello, who is speaking?",
        "The receiver is lifted after the third ring.",
        "When did she gossip with her friend over the line?",
        "Dialling a number and waiting for someone to answer.",
    ),
    "Pack": (
        "Stuffing sandwiches, a thermos and a blanket into a hamper.",
        "What is she stowing in her bag before the outing?",
        "He lays out tickets, coins and a paperback, so that nothing is forgotten.",
        "Provisions go into the rucksack, then the excursion may begin.",
        "Rounding up supplies and fitting them all in one bag.",
    ),
    "Leave_Home": (
        "Keys in hand, shoes on, and gone.",
        "When did he head out to the shops?",
        "She steps over the threshold and pulls the door shut behind her.",
        "Bye, see you tonight!",
        "The place stands empty because its owner went away.",
    ),
    "Enter_Home": (
        "Honey, I am back!",
        "When did she turn up again with her groceries?",
        "He unlocks, walks in and hangs up his jacket.",
        "Back under one's own roof at last.",
        "The owner reappears after hours of absence.",
    ),
    "Other": (
        "Cramming for the exam with a textbook.",
        "A warm compress for an aching back.",
        "Guests are over and everybody talks.",
        "Sitting cross-legged with calm breaths.",
        "It is hard to say what that was.",
    ),
}  # fmt: skip
ATTEMPTS = 5  # at most so many draws for each that counts
RESAMPLES = 200  # of windows, anew ranked by each query: fewer than elsewhere, for it takes longer


def queries_for(labels: Sequence[str]) -> list[tuple[str, str]]:
    """List the sentences for the coarse labels that are there, each with its label."""
    return [(text, label) for label, texts in PARAPHRASES.items() if label in set(labels) for text in texts]


def right_windows(wanted: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the `n` windows that have a label, and which of these have that of each query, `(Q, n)`."""
    known = np.flatnonzero([label is not None for label in labels])
    return known, np.array(wanted, dtype=object)[:, None] == labels[None, known]


def rank_windows(scores: np.ndarray, wanted: Sequence[str], labels: np.ndarray) -> Ranked:
    """Rank the windows that have a label by each query, `NAMES` of it; a window is right that has the wanted one.

    Args:
        scores: `(Q, N)` of queries and windows; labels: `(N,)` coarse labels, None for none.
    """
    known, right = right_windows(wanted, labels)
    return Ranked(score_queries(scores[:, known], right), np.zeros(len(wanted), np.int64), len(known))


def rank_at_random(wanted: Sequence[str], labels: np.ndarray) -> Ranked:
    """Score a random order of the windows, exactly as it is on average."""
    known, right = right_windows(wanted, labels)
    return Ranked(chance_scores(right.sum(axis=1), len(known)), np.zeros(len(wanted), np.int64), len(known))


def query_intervals(
    scores: Sequence[np.ndarray], wanted: Sequence[str], labels: np.ndarray, clusters: BootstrapClusters
) -> dict[str, list[float]]:
    """Return `<metric>_ci` of the mean over seeds, when other days or sessions had been there to be found in.

    Each draw ranks the windows of the drawn clusters, as often as they were drawn. Only draws in which every query has
    a right window count, for those without would leave out the rare activities; where such draws are rare, there is no
    interval. Args as in `rank_windows`, with `scores` of each seed and `clusters` of the `N` windows.
    """
    known, right = right_windows(wanted, labels)
    means = []
    for draw in clusters.draws(ATTEMPTS * RESAMPLES) if clusters.count > 1 else ():
        drawn = np.repeat(np.arange(len(known)), draw[clusters.code[known]])
        right_of_draw = right[:, drawn]
        if right_of_draw.any(axis=1).all():
            by_seed = [score_queries(cosines[:, known[drawn]], right_of_draw).mean(axis=0) for cosines in scores]
            means.append(np.mean(by_seed, axis=0))
        if len(means) == RESAMPLES:
            break
    return intervals(NAMES, np.array(means)) if len(means) == RESAMPLES else {}
