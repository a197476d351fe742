"""An ALBERT that has read chemical reactions knows them, and learns to read them backwards."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run
from transformers import AutoTokenizer

from mlmtune.config import ModelConfig
from mlmtune.config_loading import load_config
from mlmtune.modeling.loading import ModelRequest, load_pretrained
from mlmtune.training.loop import train
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions

pytestmark = pytest.mark.real_weights

# Textbook reactions in canonical SMILES: esterifications, amide and Suzuki couplings, reductive
# aminations, deprotections, hydrolyses, alkylations, reductions.
REACTIONS = [
    "CO.O=C(O)c1ccccc1.O=S(=O)(O)O>>COC(=O)c1ccccc1",
    "CCO.O=C(O)c1ccc(Br)cc1.O=S(=O)(O)O>>CCOC(=O)c1ccc(Br)cc1",
    "CO.O=C(O)Cc1ccccc1.O=S(=O)(O)O>>COC(=O)Cc1ccccc1",
    "CCO.O=C(O)c1cccnc1.O=S(=O)(O)O>>CCOC(=O)c1cccnc1",
    "CO.O=C(O)c1ccc(O)cc1.O=S(=O)(O)O>>COC(=O)c1ccc(O)cc1",
    "CCO.O=C(O)CCc1ccc(F)cc1.O=S(=O)(O)O>>CCOC(=O)CCc1ccc(F)cc1",
    "CO.Nc1ccc(C(=O)O)cc1Cl.O=S(Cl)Cl>>COC(=O)c1ccc(N)c(Cl)c1",
    "C1COCCN1.CCN=C=NCCCN(C)C.CN(C)C=O.O=C(O)c1ccccc1.On1nnc2ccccc21>>O=C(c1ccccc1)N1CCOCC1",
    "CCN=C=NCCCN(C)C.CN(C)C=O.NCc1ccccc1.O=C(O)c1ccc(F)cc1.On1nnc2ccccc21"
    ">>O=C(NCc1ccccc1)c1ccc(F)cc1",
    "CCN=C=NCCCN(C)C.CN(C)C=O.CNC.O=C(O)CC1CCCCC1.On1nnc2ccccc21>>CN(C)C(=O)CC1CCCCC1",
    "CCN=C=NCCCN(C)C.CN(C)C=O.NC1CCCCC1.O=C(O)c1cccnc1.On1nnc2ccccc21>>O=C(NC1CCCCC1)c1cccnc1",
    "CCN=C=NCCCN(C)C.CCNCC.CN(C)C=O.O=C(O)c1ccc(Cl)cc1.On1nnc2ccccc21>>CCN(CC)C(=O)c1ccc(Cl)cc1",
    "CC(C)(C)OC(=O)NCC(=O)O.CCN=C=NCCCN(C)C.CN(C)C=O.NCc1ccccc1.On1nnc2ccccc21"
    ">>CC(C)(C)OC(=O)NCC(=O)NCc1ccccc1",
    "C1CCNC1.CCN=C=NCCCN(C)C.CN(C)C=O.O=C(O)c1ccc2ccccc2c1.On1nnc2ccccc21"
    ">>O=C(c1ccc2ccccc2c1)N1CCCC1",
    "Brc1ccccc1.C1COCCO1.O.O=C([O-])[O-].OB(O)c1ccc(F)cc1.[Na+].[Na+]>>Fc1ccc(-c2ccccc2)cc1",
    "C1COCCO1.COC(=O)c1ccc(Br)cc1.O.O=C([O-])[O-].OB(O)c1ccccc1.[Na+].[Na+]"
    ">>COC(=O)c1ccc(-c2ccccc2)cc1",
    "Brc1cccnc1.C1COCCO1.COc1ccc(B(O)O)cc1.O.O=C([O-])[O-].[Na+].[Na+]>>COc1ccc(-c2cccnc2)cc1",
    "C1COCCO1.N#Cc1ccc(Br)cc1.O.O=C([O-])[O-].OB(O)c1cccs1.[Na+].[Na+]>>N#Cc1ccc(-c2cccs2)cc1",
    "C1COCCO1.Nc1ccc(Br)cn1.O.O=C([O-])[O-].OB(O)c1ccccc1.[Na+].[Na+]>>Nc1ccc(-c2ccccc2)cn1",
    "C1COCCO1.O.O=C([O-])[O-].O=Cc1ccc(Br)cc1.OB(O)c1cccc(Cl)c1.[Na+].[Na+]"
    ">>O=Cc1ccc(-c2cccc(Cl)c2)cc1",
    "C1COCCO1.Nc1nccc(Cl)n1.O.O=C([O-])[O-].OB(O)c1ccc(F)cc1.[Na+].[Na+]>>Nc1nccc(-c2ccc(F)cc2)n1",
    "C1COCCN1.CO.O=Cc1ccccc1.[BH3-]C#N.[Na+]>>c1ccc(CN2CCOCC2)cc1",
    "CNC.CO.O=Cc1ccc(F)cc1.[BH3-]C#N.[Na+]>>CN(C)Cc1ccc(F)cc1",
    "CO.NCc1ccccc1.O=C1CCCCC1.[BH3-]C#N.[Na+]>>c1ccc(CNC2CCCCC2)cc1",
    "C1CCNCC1.CO.O=Cc1ccncc1.[BH3-]C#N.[Na+]>>c1cc(CN2CCCCC2)ccn1",
    "CN.CO.O=Cc1ccc(Cl)cc1.[BH4-].[Na+]>>CNCc1ccc(Cl)cc1",
    "CC(C)(C)OC(=O)N1CCCCC1.ClCCl.O=C(O)C(F)(F)F>>C1CCNCC1",
    "CC(C)(C)OC(=O)N1CCN(c2ccccc2)CC1.ClCCl.O=C(O)C(F)(F)F>>c1ccc(N2CCNCC2)cc1",
    "CC(C)(C)OC(=O)NCc1ccc(Br)cc1.ClCCl.O=C(O)C(F)(F)F>>NCc1ccc(Br)cc1",
    "CC(C)(C)OC(=O)NC1CCCCC1.ClCCl.O=C(O)C(F)(F)F>>NC1CCCCC1",
    "C1CCOC1.COC(=O)c1ccc(-c2ccccc2)cc1.O.[Li+].[OH-]>>O=C(O)c1ccc(-c2ccccc2)cc1",
    "CCOC(=O)CCc1ccccc1.CO.O.[Na+].[OH-]>>O=C(O)CCc1ccccc1",
    "C1CCOC1.COC(=O)c1cncc(Br)c1.O.[Li+].[OH-]>>O=C(O)c1cncc(Br)c1",
    "CCO.CCOC(=O)c1ccc(OC)cc1.O.[Na+].[OH-]>>COc1ccc(C(=O)O)cc1",
    "BrCc1ccccc1.CC(C)=O.O=C([O-])[O-].Oc1ccccc1.[K+].[K+]>>c1ccc(COc2ccccc2)cc1",
    "CI.CN(C)C=O.COC(=O)c1ccc(O)cc1.O=C([O-])[O-].[K+].[K+]>>COC(=O)c1ccc(OC)cc1",
    "CCBr.CN(C)C=O.O=C([O-])[O-].O=Cc1ccc(O)cc1.[K+].[K+]>>CCOc1ccc(C=O)cc1",
    "CI.CN(C)C=O.[H-].[Na+].c1ccc2[nH]ccc2c1>>Cn1ccc2ccccc21",
    "CCO.O.O=[N+]([O-])c1ccc(F)cc1.[Cl-].[Fe].[NH4+]>>Nc1ccc(F)cc1",
    "CO.COC(=O)c1ccc([N+](=O)[O-])cc1.[H][H]>>COC(=O)c1ccc(N)cc1",
    "C1CCOC1.COC(=O)c1ccc(Cl)nc1.[Al+3].[H-].[H-].[H-].[H-].[Li+]>>OCc1ccc(Cl)nc1",
    "CO.O=Cc1cccc(Br)c1.[BH4-].[Na+]>>OCc1cccc(Br)c1",
]
HELD_OUT = REACTIONS[1::3]
TRAINING = [reaction for reaction in REACTIONS if reaction not in HELD_OUT]


def shuffled(reactions: Sequence[str], tokenizer: Any) -> list[str]:
    """The same tokens in no order: what is left without any syntax or chemistry."""
    draw = random.Random(0)
    pieces = [tokenizer.tokenize(reaction) for reaction in reactions]
    return ["".join(draw.sample(tokens, len(tokens))) for tokens in pieces]


def backwards(reactions: Sequence[str]) -> list[str]:
    """The product first, as one who plans a synthesis reads them."""
    return [">>".join(reversed(reaction.split(">>"))) for reaction in reactions]


@pytest.fixture
def measured(rxn_albert: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Trains on some reactions and measures on others; gives eval_results.json."""

    def measure(training: Sequence[str], held_out: Sequence[str], steps: int) -> dict[str, Any]:
        for name, reactions in (("training", training), ("held-out", held_out)):
            text = "\n".join(reactions) + "\n"
            (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        config = tmp_path / "config.yaml"
        config.write_text(
            f"""
run: {{output_dir: {tmp_path / "run"}}}
model: {{name_or_path: {rxn_albert}}}
corpus:
  sources: [{{format: lines, path: {tmp_path / "training.txt"}}}]
  validation_sources: [{{format: lines, path: {tmp_path / "held-out.txt"}}}]
chunking: {{mode: per_document, chunk_length: 128}}
optimizer: {{learning_rate: 1e-4}}
training: {{max_steps: {steps}, global_batch_size: 16, precision: fp32}}
""",
            encoding="utf-8",
        )
        train(load_config(config), RunOptions(overwrite=True, is_quiet=True), build_masked_lm)
        return Run(tmp_path / "run").json("eval_results.json")

    return measure


def test_it_loads_whole_with_its_head(rxn_albert: Path) -> None:
    config = ModelConfig(name_or_path=str(rxn_albert))
    request = ModelRequest(config, 512, torch.device("cpu"), "fp32", seed=0)
    loaded = load_pretrained(request, "mlm")
    assert type(loaded.model).__name__ == "AlbertForMaskedLM"
    assert loaded.new_weights == ()
    assert not loaded.head_is_new


def test_its_tokens_are_atoms_and_bonds(rxn_albert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(rxn_albert)
    ids = tokenizer("BrC[C@@H]1CC%10Cl>>[Na+].C")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert " ".join(tokens) == "[CLS] Br C [C@@H] 1 C C %10 Cl >> [Na+] . C [SEP]"
    for reaction in REACTIONS:
        ids = tokenizer(reaction, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == reaction
        assert tokenizer.unk_token_id not in ids


def test_it_knows_reactions_and_not_their_shuffled_tokens(
    measured: Callable[..., dict[str, Any]], rxn_albert: Path
) -> None:
    """These are near its best: it has read 1.3 M reactions, these perhaps among them."""
    control = shuffled(HELD_OUT, AutoTokenizer.from_pretrained(rxn_albert))
    reactions = measured(TRAINING, HELD_OUT, steps=1)
    tokens = measured(TRAINING, control, steps=1)
    assert reactions["num_masked_tokens"] > 100
    assert reactions["perplexity_before"] < 1.2
    assert tokens["perplexity_before"] > 50


def test_it_learns_to_read_them_backwards(measured: Callable[..., dict[str, Any]]) -> None:
    """As they stand there is nothing left to learn; this order is new to it."""
    results = measured(backwards(TRAINING), backwards(HELD_OUT), steps=20)
    assert results["perplexity_before"] > 1.2
    # As seen: 1.46 before, 1.04 after.
    assert results["perplexity_interval"][1] < results["perplexity_before"]
    assert results["loss"] < results["loss_before"] / 2
