"""The engine of clusters: work of the corpus as tasks of Slurm or Ray, by datatrove's executors."""
