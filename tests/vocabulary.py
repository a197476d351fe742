"""The words and pieces that the tests' tokenizer knows."""

WORDS = (  # noqa: SIM905
    "the a of to in and is on for with storage account key vault cluster node pool network "
    "policy container image registry secret token deploy create delete update list resource "
    "group portal command line interface azure service server client request response data "
    "model train test value name type file folder text word sentence document page table "
    "running stopped started ready pending failed succeeded small large new old first last"
).split()
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNUSED_TOKENS = [f"[unused{number}]" for number in range(5)]
PIECES = ["##s", "##ed", "##ing", "##er", "##ly", *"abcdefghijklmnopqrstuvwxyz0123456789"]
PIECES += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"] + list(".,:;-[]")
# Each once: an id of its own for every token.
VOCABULARY = list(dict.fromkeys([*SPECIAL_TOKENS, *UNUSED_TOKENS, *WORDS, *PIECES]))
