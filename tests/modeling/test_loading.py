import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
import torch
import transformers

from mlmtune.config import ModelConfig
from mlmtune.errors import ConfigError, HubError
from mlmtune.modeling import attention, loading, locating
from mlmtune.modeling.loading import ModelRequest, load_pretrained
from mlmtune.modeling.locating import ModelFolder, locate_model
from mlmtune.modeling.tokenizer import load_tokenizer

CPU = torch.device("cpu")


def load(name, chunk_length=16, seed=0, precision="fp32", objective="mlm", **settings):
    config = ModelConfig(name_or_path=str(name), **settings)
    return load_pretrained(ModelRequest(config, chunk_length, CPU, precision, seed), objective)


def small_config(tokenizer, config_class, **settings):
    return config_class(**{
        "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
        "pad_token_id": tokenizer.pad_token_id, **settings,
    })  # fmt: skip


@pytest.fixture
def save(tokenizer, tmp_path):
    """Saves a model, and a tokenizer beside it, in a folder."""

    def save_model(model, tokenizer=tokenizer):
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save_model


@pytest.fixture
def copied(model_dir, tmp_path):
    """A copy of the tiny model whose JSON files can be changed."""
    folder = tmp_path / "copy"
    shutil.copytree(model_dir, folder)

    def change(name="config.json", **changes):
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(json.dumps(content), encoding="utf-8")
        return folder

    return change


def test_a_whole_model_is_loaded_as_it_was_saved(model_dir):
    from transformers import AutoModelForMaskedLM

    loaded = load(model_dir)
    saved = AutoModelForMaskedLM.from_pretrained(model_dir).state_dict()
    assert loaded.new_weights == ()
    assert not loaded.head_is_new
    assert loaded.has_token_types
    assert loaded.context_length == 64
    assert loaded.model.dtype == torch.float32
    assert loaded.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert saved.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(saved[name], w) for name, w in loaded.model.state_dict().items())


def test_a_new_head_is_noticed_and_drawn_by_the_seed(tokenizer, save):
    from transformers import BertConfig, BertModel

    folder = save(BertModel(small_config(tokenizer, BertConfig)))
    first, same, other = (load(folder, seed=seed) for seed in (1, 1, 2))
    assert first.head_is_new
    assert "cls.predictions.transform.dense.weight" in first.new_weights

    def weights(loaded):
        return loaded.model.state_dict()

    assert all(torch.equal(weights(same)[name], w) for name, w in weights(first).items())
    differing = {n for n, w in weights(first).items() if not torch.equal(weights(other)[n], w)}
    assert "cls.predictions.transform.dense.weight" in differing
    assert differing <= set(first.new_weights)


def test_missing_encoder_weights_are_refused(copied):
    from safetensors.torch import load_file, save_file

    folder = copied()
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"lacks weights of its encoder \({name}\)"):
        load(folder)


def test_weights_of_half_precision_are_loaded_as_fp32(model_dir, save):
    from transformers import AutoModelForMaskedLM

    folder = save(AutoModelForMaskedLM.from_pretrained(model_dir).to(torch.bfloat16))
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.float32}


def test_a_tokenizer_larger_than_the_embeddings_is_refused(tokenizer, model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["kubernetes", "helm"])
    grown.save_pretrained(folder)
    sizes = rf"{len(tokenizer) + 2} tokens, .* {len(tokenizer)};.*resize_token_embeddings"
    with pytest.raises(ConfigError, match=sizes):
        load(folder)


def test_a_tokenizer_smaller_than_the_embeddings_is_fine(tokenizer, save):
    from transformers import BertConfig, BertForMaskedLM

    padded = small_config(tokenizer, BertConfig, vocab_size=len(tokenizer) + 7)
    assert load(save(BertForMaskedLM(padded))).model.config.vocab_size == len(tokenizer) + 7


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no mask token"):
        load_tokenizer(ModelFolder(tmp_path, "tiny"))


def test_a_slow_tokenizer_is_refused(tmp_path):
    content = {"tokenizer_class": "CanineTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "canine"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"slow tokenizer \(CanineTokenizer\)"):
        load_tokenizer(ModelFolder(tmp_path, "tiny"))


def test_a_folder_without_a_tokenizer_is_refused(copied):
    folder = copied()
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer, .* tokenizer\.json"):
        load(folder)


# Which heads are new.

BOTH_HEADS, MLM_HEAD, POOLER, BARE = (
    ("BertForPreTraining", {}),
    ("BertForMaskedLM", {}),
    ("BertModel", {}),
    ("BertModel", {"add_pooling_layer": False}),
)


def save_bert(tokenizer, save, kind):
    import transformers

    class_name, settings = kind
    config = small_config(tokenizer, transformers.BertConfig)
    return save(getattr(transformers, class_name)(config, **settings))


@pytest.mark.parametrize(
    ("kind", "objective", "head_is_new", "pair_head_is_new", "kept"),
    [
        (BOTH_HEADS, "mlm", False, False, {"bert.pooler.dense", "cls.seq_relationship"}),
        (BOTH_HEADS, "mlm+nsp", False, False, set()),
        (MLM_HEAD, "mlm", False, False, set()),
        (MLM_HEAD, "mlm+sop", False, True, set()),
        (POOLER, "mlm", True, False, {"bert.pooler.dense"}),
        (POOLER, "mlm+nsp", True, True, set()),
        (BARE, "mlm", True, False, set()),
        (BARE, "mlm+nsp", True, True, set()),
    ],
)
def test_each_head_is_new_where_the_checkpoint_lacks_it(
    tokenizer, save, kind, objective, head_is_new, pair_head_is_new, kept
):
    loaded = load(save_bert(tokenizer, save, kind), objective=objective)
    assert loaded.head_is_new is head_is_new
    assert loaded.pair_head_is_new is pair_head_is_new
    assert {name.rpartition(".")[0] for name in loaded.kept_weights} == kept
    new_here = {name.rpartition(".")[0] for name in loaded.new_pair_weights}
    has_pooler = kind in (BOTH_HEADS, POOLER)
    expected = {"cls.seq_relationship"} | (set() if has_pooler else {"bert.pooler.dense"})
    assert new_here == (expected if pair_head_is_new else set())


def test_the_pooler_of_a_bare_encoder_serves_its_new_head_for_pairs(tokenizer, save):
    from transformers import BertModel

    folder = save_bert(tokenizer, save, POOLER)
    pooler = load(folder, objective="mlm+nsp").model.bert.pooler.dense.weight
    assert torch.equal(pooler, BertModel.from_pretrained(folder).pooler.dense.weight)


def test_an_albert_has_its_own_head_for_pairs(tokenizer, save):
    from transformers import AlbertConfig, AlbertForMaskedLM, AlbertForPreTraining

    config = small_config(tokenizer, AlbertConfig, embedding_size=8)
    assert not load(save(AlbertForPreTraining(config)), objective="mlm+sop").new_weights
    loaded = load(save(AlbertForMaskedLM(config)), objective="mlm+sop")
    assert loaded.pair_head_is_new
    assert not loaded.head_is_new
    assert {name.split(".")[-2] for name in loaded.new_weights} == {"pooler", "classifier"}


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm+sop"])
def test_an_architecture_without_a_head_for_pairs_is_refused(byte_tokenizer, save, objective):
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = small_config(byte_tokenizer, RobertaConfig, max_position_embeddings=66)
    folder = save(RobertaForMaskedLM(config), byte_tokenizer)
    with pytest.raises(ConfigError) as error:
        load(folder, objective=objective)
    assert str(error.value).startswith(
        f"objective: {objective} needs a head for pairs of sentences, which {folder} (roberta) "
        "cannot have; choose a model of one of the kinds that can (albert, bert, "
    )
    assert str(error.value).endswith("or set objective: mlm")


# How long an input may be.


def test_a_chunk_may_be_as_long_as_the_model_allows_and_no_longer(model_dir):
    assert load(model_dir, chunk_length=64).context_length == 64
    with pytest.raises(ConfigError, match=r"chunk_length is 65, .* at most 64 .* to 64 or less"):
        load(model_dir, chunk_length=65)


@pytest.mark.parametrize("tokenizer_knows", [True, False])
def test_a_roberta_keeps_two_positions_for_padding(byte_tokenizer, save, tokenizer_knows):
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = small_config(byte_tokenizer, RobertaConfig, max_position_embeddings=66)
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.model_max_length = 64 if tokenizer_knows else 10**30
    folder = save(RobertaForMaskedLM(config), tokenizer)
    loaded = load(folder, chunk_length=64)
    assert loaded.context_length == loaded.tokenizer.model_max_length == 64
    assert not loaded.has_token_types
    loaded.model(input_ids=torch.full((1, 64), 7))
    with pytest.raises(ConfigError, match=r"is 65, .* at most 64 "):
        load(folder, chunk_length=65)


def test_a_tokenizer_may_know_a_shorter_limit(tokenizer, model_dir, save):
    from transformers import AutoModelForMaskedLM

    shorter = copy.deepcopy(tokenizer)
    shorter.model_max_length = 32
    folder = save(AutoModelForMaskedLM.from_pretrained(model_dir), shorter)
    with pytest.raises(ConfigError, match=r"is 33, .* at most 32 "):
        load(folder, chunk_length=33)


# Dropout and attention.


def test_dropout_is_set_everywhere_and_in_the_config(model_dir):
    model = load(model_dir, dropout=0.3).model
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.3


def test_dropout_is_the_models_own_where_none_is_given(copied):
    model = load(copied(hidden_dropout_prob=0.25)).model
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0, 0.25}


def test_no_dropout_is_dropout_of_zero(copied):
    model = load(copied(hidden_dropout_prob=0.25), dropout=0.0).model
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


@pytest.mark.parametrize(
    ("asked", "precision", "used"),
    [("auto", "fp32", "sdpa"), ("auto", "bf16", "eager"), ("eager", "fp32", "eager")],
)
def test_attention_is_as_asked(model_dir, asked, precision, used, monkeypatch):
    monkeypatch.setattr(loading, "_check_precision", lambda *arguments: None)  # see the next test
    loaded = load(model_dir, precision=precision, attn_implementation=asked)
    assert loaded.attn_implementation == loaded.model.config._attn_implementation == used


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_the_architecture_cannot_compute_in_is_refused(
    model_dir, precision, monkeypatch
):
    """Some CPUs crash in bf16, so the model is none that computes in it."""

    def forward(model, input_ids):
        assert input_ids.shape == (1, 16)
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError("cannot be converted to BFloat16\nand more")

    monkeypatch.setattr(transformers.BertModel, "forward", forward)
    if precision == "fp32":
        assert load(model_dir, precision=precision).model.dtype == torch.float32
        return
    with pytest.raises(
        ConfigError,
        match=r"\(bert\) cannot be computed in bf16 here \(cannot .* to BFloat16\); set",
    ):
        load(model_dir, precision=precision)


def test_attention_is_not_tried_on_inputs_that_are_too_long(model_dir):
    with pytest.raises(ConfigError, match="takes at most"):
        load(model_dir, chunk_length=1024, attn_implementation="varlen")


def test_flash_attention_is_pytorch_s_own_unless_a_package_is_named(tokenizer, save, monkeypatch):
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 1024
    sizes = {"max_position_embeddings": 1024, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"cls_token_id": 2, "sep_token_id": 3, "num_hidden_layers": 2}
    model = ModernBertForMaskedLM(small_config(tokenizer, ModernBertConfig, **sizes))
    folder = save(model, tokenizer)
    monkeypatch.setattr(loading, "_check_precision", lambda *arguments: None)  # needs the GPU

    def load_for_gpu(**settings):
        config = ModelConfig(name_or_path=str(folder), **settings)
        request = ModelRequest(config, 1024, torch.device("cuda"), "bf16", seed=0)
        return load_pretrained(request, "mlm")

    loaded = load_for_gpu()
    assert loaded.attn_implementation == "varlen"
    assert not loaded.notes
    assert load_for_gpu(attn_implementation="sdpa").attn_implementation == "sdpa"
    with pytest.raises(
        ConfigError, match=r"flash_attention_2 cannot be used \(.+\); set it to auto"
    ):
        load_for_gpu(attn_implementation="flash_attention_2")
    monkeypatch.setattr(attention, "_agrees", lambda *probe: False)
    loaded = load_for_gpu()
    assert loaded.attn_implementation == "sdpa"
    assert any("slow for inputs of 1024 tokens" in note for note in loaded.notes)
    with pytest.raises(ConfigError, match="varlen cannot be used"):
        load_for_gpu(attn_implementation="varlen")


def test_a_short_input_does_not_change_how_a_long_one_is_attended(tokenizer, save):
    """By itself BigBird would go on with full attention, and so would all of its training."""
    from transformers import BigBirdConfig, BigBirdForMaskedLM

    config = small_config(tokenizer, BigBirdConfig, max_position_embeddings=512, block_size=16,
                          num_random_blocks=2)  # fmt: skip
    long_tokenizer = copy.deepcopy(tokenizer)
    long_tokenizer.model_max_length = 512
    folder = save(BigBirdForMaskedLM(config), long_tokenizer)
    ids = torch.randint(5, 100, (1, 512))
    expected = BigBirdForMaskedLM.from_pretrained(folder)(input_ids=ids).logits
    model = load(folder, chunk_length=512).model.eval()
    for _ in range(2):
        model(input_ids=ids[:, :20])
        assert torch.equal(model(input_ids=ids).logits, expected)
    full = BigBirdForMaskedLM.from_pretrained(folder, attention_type="original_full")
    assert not torch.equal(full(input_ids=ids).logits, expected)


# What is no model.


def test_a_folder_without_config_json_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no config\.json, .*save_pretrained"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "a/b/c", "~/no-such"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(ConfigError, match=f"there is no folder {name}"):
        locate_model(name, None)


def test_a_name_that_can_be_neither_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ConfigError, match="neither a folder nor a name on the hub"):
        locate_model("not a name!", None)


def test_a_package_that_is_not_installed_is_refused():
    with pytest.raises(ConfigError, match="no_such_package is not installed"):
        locate_model("package://no_such_package/model", None)


def test_code_from_a_models_repository_is_refused_and_not_run(copied):
    auto_map = {"AutoConfig": "code.Config", "AutoModelForMaskedLM": "code.Model"}
    folder = copied(model_type="its-own", architectures=["Model"], auto_map=auto_map)
    (folder / "code.py").write_text("raise SystemExit('it was run')\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"code from its own repository \(trust_remote_code\)"):
        load(folder)


def test_an_architecture_that_transformers_does_not_know_is_refused(copied):
    with pytest.raises(ConfigError) as error:
        load(copied(model_type="no-such-model", architectures=["NoSuchModel"]))
    assert "\n" not in str(error.value)


def test_a_causal_model_is_refused(byte_tokenizer, save):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(byte_tokenizer), n_embd=16, n_layer=1, n_head=2,
                        n_positions=64)  # fmt: skip
    with pytest.raises(ConfigError, match="not a masked language model that transformers knows"):
        load(save(GPT2LMHeadModel(config), byte_tokenizer))


@pytest.mark.parametrize("model_type", ["bart", "t5"])
def test_an_encoder_with_a_decoder_is_refused(copied, model_type):
    folder = copied(model_type=model_type, is_encoder_decoder=True, classifier_dropout=0.0)
    with pytest.raises(ConfigError, match=rf"\({model_type}\) is an encoder with a decoder.*BERT"):
        load(folder)


# The hub, out of reach.


def test_offline_a_name_that_is_not_cached_is_said(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it used the network"))
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set, and there is no cached copy"):
        load("no-such-owner/no-such-model")


CHILD = """
import sys, time
from mlmtune.config import ModelConfig
from mlmtune.errors import HubError
from mlmtune.modeling import locating

locating.HUB_TIMEOUT_SECONDS = float(sys.argv[1])
start = time.monotonic()
try:
    locating.locate_model("no-such-owner/no-such-model", None)
except HubError as error:
    print(time.monotonic() - start)
    print(error)
"""


@pytest.fixture(scope="module")
def silent_server():
    """Accepts connections and never answers. Gives its port."""
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in accepted:
        connection.close()


@pytest.fixture(scope="module", autouse=True)
def children_of_ports(silent_server, tmp_path_factory):
    """Child processes, as the hub's client reads its environment on import. They mostly wait, so
    that they start before the first test."""
    home = tmp_path_factory.mktemp("home")
    environment = {"HOME": str(home), "HF_HOME": str(home / "hub"), "PATH": os.environ["PATH"]}
    children = {
        port: subprocess.Popen(
            [sys.executable, "-c", CHILD, "1.0"],
            env=environment | {"HF_ENDPOINT": f"http://127.0.0.1:{port}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for port in (9, silent_server)
    }
    yield children
    for child in children.values():
        child.kill()
        child.communicate()


def test_a_hub_that_is_down_or_silent_is_given_up_soon(children_of_ports, silent_server):
    """Some versions of the client ask it something of their own first, for up to 3 seconds."""
    assert locating.HUB_TIMEOUT_SECONDS <= 5
    for port, child in children_of_ports.items():
        output, _ = child.communicate(timeout=100)
        assert child.returncode == 0
        seconds, message = output.splitlines()
        assert float(seconds) < 8, port
        assert f"http://127.0.0.1:{port} cannot be reached" in message
        assert ("ReadTimeout" in message) == (port == silent_server)
        assert "no cached copy" in message


def test_a_tokenizer_with_token_types_goes_with_a_model_without(tokenizer, save):
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=1, n_heads=2, hidden_dim=24,
        max_position_embeddings=64,
    )  # fmt: skip
    loaded = load(save(DistilBertForMaskedLM(config), tokenizer))
    assert "token_type_ids" in loaded.tokenizer.model_input_names
    assert not loaded.has_token_types


def test_dropout_of_a_head_for_pairs_is_set_where_it_is_trained(save, tokenizer):
    from transformers import AlbertConfig, AlbertForPreTraining

    config = AlbertConfig(
        vocab_size=len(tokenizer), embedding_size=8, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=40,
        classifier_dropout_prob=0.1,
    )  # fmt: skip
    folder = save(AlbertForPreTraining(config))
    rates = {
        objective: load(folder, objective=objective, dropout=0.0).model.config
        for objective in ("mlm", "mlm+sop")
    }
    assert rates["mlm"].classifier_dropout_prob == 0.1  # a classifier's, later
    assert rates["mlm+sop"].classifier_dropout_prob == 0.0
