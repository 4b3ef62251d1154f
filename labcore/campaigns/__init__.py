"""Campaigns: a notebook run headless with many parameters and seeds, and a table of its numbers.

    spec      a YAML file names a notebook, its parameters, rows and seeds; all of it is checked first  (spec, parameters)
    runs      each row and seed runs in a folder and a process of its own, here or on a cluster, and
              resumes after a kill                              (runner, slurm, execute, notebook, kernel, state)
    records   the numbers of finished runs become committed JSON files                    (records, publishing, results)
    tables    mean over seeds, differences from a baseline, verdicts on claims    (tables, interval, claims, verdicts)

A notebook needs one code cell tagged `parameters` that assigns literals, `seed` and `run_dir` among them, and `smoke` for
runs of a tiny size. It must write `result.json`, names with finite numbers, to `run_dir`. To be resumable it saves its own
checkpoints there. It need not import labcore.

This package does not know what a notebook computes: it knows no flow, data set, metric or GPU library, it never imports
torch to run a notebook on a CPU, and a notebook's parameters mean to it only what their marks say ([size], [path], [name or
path]). Of labcore's other layouts it knows one: in which folder a run or a saved model has its weights (named_paths). It uses
only modules of labcore's bottom layer, and could be moved to a package of its own together with them.
"""
