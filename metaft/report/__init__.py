"""What the user sees: learning curves, one self-contained HTML page, the terminal.

    data       what a report is made of: one frozen record, filled by an experiment
    archive    the same record as one file
    wording    numbers, configurations and conclusions in words
    plots      figures, as PNG
    quality_plots  figures of a meta-dataset's quality
    comparison_plots  figures of the comparison of searchers
    html       the page
    terminal   the same while it happens

Nothing here decides or measures anything.
"""
