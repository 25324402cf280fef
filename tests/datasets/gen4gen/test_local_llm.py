"""LocalPlanner through transformers' real classes: a tiny random model, and one that says what it is told to."""

import pytest
import torch

from scenewright.checkpoints import CheckpointError, MissingWeights, checkpoints_of
from scenewright.datasets.gen4gen.planner import prompts
from scenewright.datasets.gen4gen.planner.conversation import Question
from scenewright.datasets.gen4gen.planner.local_llm import LocalPlanner, _sampler
from scenewright.datasets.gen4gen.records import LayoutRequest

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKS = ["<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"]


def save(folder, template=TEMPLATE):
    """A Llama of random weights with one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *MARKS])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, eos_token="<|end|>", pad_token="<|pad|>", additional_special_tokens=MARKS[:2]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), **layers, eos_token_id=vocabulary["<|end|>"], pad_token_id=vocabulary["<|pad|>"]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LlamaForCausalLM(config)
        for weights in network.parameters():  # as initialised, every prompt would look alike
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.3)
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llm"))


def question(text, temperature=0.0, seed=0):
    return Question((("user", text),), temperature, seed)


def request(*names, seed=0):
    return LayoutRequest(names, (1.0,) * len(names), 1024, 1024, ("in the garden",), seed)


QUESTIONS = [
    question("one cat", 1.0, 1),
    question("one very large dog", 1.0, 2),
    question("one cat", 0.3, 1),
    question("one cat", 1.0, 3),
    question("two cows"),
]


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(checkpoint):
    planner = LocalPlanner(checkpoint, max_new_tokens=12)
    together = planner._answer(QUESTIONS)
    assert together == [planner._answer([x])[0] for x in QUESTIONS]
    assert len(set(together)) == len(QUESTIONS)


def test_without_temperature_the_likeliest_token_is_taken(checkpoint):
    planner = LocalPlanner(checkpoint, max_new_tokens=8)
    tokens = planner._tokenizer("<|user|>two cows<|end|><|assistant|>", return_tensors="pt")["input_ids"]
    start = tokens.shape[1]
    for _ in range(8):
        logits = planner._network(tokens).logits[0, -1]
        tokens = torch.cat([tokens, logits.argmax().reshape(1, 1)], 1)
    expected = planner._tokenizer.decode(tokens[0, start:], skip_special_tokens=True)
    assert planner._answer([question("two cows", seed=5)]) == [expected]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_the_models_probabilities(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    draw = _sampler([question("x", temperature, seed) for seed in range(2000)])
    for _ in range(2):  # the next tokens too
        drawn = draw(torch.zeros(2000, 1, dtype=torch.long), logits.repeat(2000, 1)).argmax(1)
        shares = drawn.bincount(minlength=5) / 2000
        assert (shares - (logits / temperature).softmax(0)).abs().max() < 0.04


def test_what_a_random_model_says_is_refused_with_its_log(checkpoint):
    plans = LocalPlanner(checkpoint, max_new_tokens=6, attempts=2).plan(
        [request("cat", seed=4), request("dog", seed=5)]
    )
    for plan in plans:
        assert plan.boxes is None and "none of 2 answers" in plan.error
        first, second = plan.log
        assert first["prompt"].startswith(prompts.text("layout")) and first["refused"] in second["prompt"]
    assert plans[0].log[0]["reply"] != plans[1].log[0]["reply"]


def test_it_plans_with_what_the_model_says(checkpoint, monkeypatch):
    asked = []

    def answer(self, questions):
        asked.append(len(questions))
        first = [len(x.messages) == 1 and "one dog" in x.messages[0][1] for x in questions]
        return [
            "[('cow', [0, 0, 99, 99])]" if x else "[('cat', [0, 0, 256, 256]), ('dog', [256, 0, 256, 256])]"
            for x in first
        ]

    monkeypatch.setattr(LocalPlanner, "_answer", answer)
    planner = LocalPlanner(checkpoint, batch_size=2)
    plans = planner.plan([request("dog", "cat", seed=i) for i in (1, 2, 1)])
    assert all(x.boxes.tolist() == [[0.5, 0, 1, 0.5], [0, 0, 0.5, 0.5]] for x in plans)
    assert asked == [2, 2]  # the third is the first once more
    assert planner.plan([]) == []


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    planner = LocalPlanner(save(tmp_path, template=None))
    with pytest.raises(CheckpointError, match="no chat template; choose an instruction-tuned model"):
        planner.plan([request("cat")])


def test_missing_weights_are_found_before_any_work(tmp_path):
    planner = LocalPlanner(str(tmp_path), revision="abc")
    (found,) = checkpoints_of(planner)
    assert (found.name, found.revision) == (str(tmp_path), "abc")
    with pytest.raises(MissingWeights, match=r"no config\.json; it must hold .*tokenizer\.json"):
        planner.plan([request("cat")])
