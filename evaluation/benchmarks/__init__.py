"""Program `benchmark`: the academic benchmarks of a checkpoint, by lm-evaluation-harness (paper 2.3, A.2.2).

suites/         a folder per suite, a file per group of benchmarks: shots, what counts, the paper's figures
tasks/          tasks that the harness lacks, in its own form
suites.py       the groups of a suite, and rows that lie in a local folder
harness.py      the harness, which nothing else imports: our model as one of its own, its tasks over our rows
reading.py      log-likelihoods of token sequences, and text generated until a stop, in batches over several ranks
answers.py      how the tasks that are ours score an answer
code_tasks.py   how the code tasks score programs: pass@k
sandbox.py      runs a program that a model wrote, away from files, network and other processes
table.py        averages of groups, intervals, and the table beside the paper's figures
"""
