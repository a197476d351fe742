"""Words for WordPiece, which takes the longest entry that a word begins with, and goes on behind.

A new entry also cuts longer words that begin with it, which may then have more pieces than before:
no plan can prevent that, so `extension` compares the words of the corpus.
"""

from mlmtune.vocabulary.plan import Plan, Reason, Request


def plan_word_piece(request: Request) -> Plan:
    """Plan entries for words; WordPiece needs nothing else."""
    settings = request.content["model"]
    prefix, longest = settings["continuing_subword_prefix"], settings["max_input_chars_per_word"]
    dropped = {
        word: Reason.UNREACHABLE
        for word in request.words
        # With the prefix, it would be found inside words.
        if len(word) > longest or (prefix and word.startswith(prefix))
    }
    return Plan(tuple(word for word in request.words if word not in dropped), dropped)
