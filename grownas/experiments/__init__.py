"""What a run does from data to scores: search or train, then the baselines on the same terms.

One module for each kind of task, one for what they share.
"""
