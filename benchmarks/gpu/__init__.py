"""What the lab costs on one GPU, row by row: ceilings of the card, training steps, inverses, kernels, passes, loaders.

    python -m benchmarks.gpu warm --processes 7                             compile beforehand, untimed
    python -m benchmarks.run --only gpu --reference FOLDER --seconds 255 --results FOLDER --save
    python -m benchmarks.gpu table RECORD                                   a record as a Markdown table

`rows` has the rows and the loop over them, `setting` the models they share, `bounds` their lower bounds, `record` the file that
is replaced after every row, and `supervise` the process that ends a row which hangs. Without a CUDA device all rows run at a
toy size: their numbers are meaningless and no target is judged; this only checks that every row runs. Untested on GPU.
"""
