"""A cohort run through many faults: nothing lost, nothing twice, nothing left over.

    python -m tests.chaos [--seed 0] [--seeds 1] [--faults 12] [--slides 14]
        [--fits] [--only kill-member ...] [--report FILE.md]

For each seed a schedule of faults is drawn and printed, and a cohort of small slides,
some of them sick, is run by ``digipath run`` while they strike at those moments; the
command is given again until it ends by itself. Then the run is held against heatmaps
that one process made undisturbed (:mod:`tests.chaos.checks`). The same seed draws the
same schedule; what a fault meets depends on the machine. With ``--fits`` it is
``digipath train`` of a small network: each epoch is there once, with the loss that it
has undisturbed.
"""
