"""A tiny random Qwen2.5-VL of the real class as a judge: it talks nonsense, and is found out."""

import dataclasses
import json

import pytest

from step1x_jax.asking.ask import AskLimits
from step1x_jax.asking.exchange import Ask, NoReply
from step1x_jax.asking.pictures import picture_to_send
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.judgement_files import judge_folder, read_judgements
from step1x_jax.evaluation.judging.judge_run import JudgeRun, judge_pictures
from step1x_jax.evaluation.judging.judges import limits_for, open_judge, preset_of
from step1x_jax.evaluation.judging.prompts import read_prompts
from step1x_jax.evaluation.judging.tally import Prices, Tally
from tests.conditioning.small_qwen import make_folder
from tests.evaluation.toy import picture, png, toy_samples, write_results

pytestmark = pytest.mark.torch

# As Qwen2.5-VL's: a turn's pictures and texts in their order.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    folder = make_folder(tmp_path_factory.mktemp("judge") / "tiny")
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 10  # else pictures are too faint to change a word
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
            | {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        )
    )
    return folder


@pytest.fixture(scope="module")
def preset(folder):
    preset = preset_of("transformers", model=str(folder))
    return dataclasses.replace(preset, max_tokens=12)


def test_its_replies_are_all_unparsable(preset, tmp_path):
    samples = toy_samples(1, tasks=("ps_human",))
    method = write_results(tmp_path / "mine", samples, "mine")
    run = JudgeRun(
        benchmark=GEDIT,
        method_folder=method,
        folder=judge_folder(method, "tiny"),
        preset=preset,
        prompts=read_prompts(GEDIT),
        protocol="source_size",
        source="input_image",
    )
    with open_judge(preset, 5) as judge:
        judgements = judge_pictures(
            run, samples, judge, limits_for(preset, AskLimits()), Tally(Prices())
        )
    assert [one.status for one in judgements] == ["unparsable"] * 2
    assert all(one.scores == {} and one.reason for one in judgements)
    _, facts = read_judgements(run.folder)
    assert facts["served_model"].startswith("tiny ")
    assert facts["endpoint"] is None


def test_pictures_texts_and_their_order_make_the_reply(preset):
    shown = [picture_to_send(png(picture(text)), text, (56, 56), preset) for text in "ab"]
    parts = {
        "first": (*shown, "which?"),
        "turned": (*reversed(shown), "which?"),
        "alone": (shown[0], "which?"),
        "text": ("which?",),
    }
    with open_judge(preset, 5) as judge:
        replies = {name: judge.answer(Ask(name, one), 0) for name, one in parts.items()}
        again = judge.answer(Ask("first", parts["first"]), 1)
        system = judge.answer(Ask("first", parts["first"], system="be fair"), 0)
        with pytest.raises(NoReply, match="in the question itself"):
            judge.answer(Ask("mark", ("a <|image_pad|>",)), 0)
    tokens = {name: reply.input_tokens for name, reply in replies.items()}
    # 56 x 56 pixels are 4 tokens; a picture is between two more
    assert tokens["first"] == tokens["turned"] == tokens["alone"] + 6 == tokens["text"] + 12
    assert system.input_tokens > tokens["first"]
    assert again.text == replies["first"].text  # greedy
    assert replies["first"].text != replies["turned"].text
    for reply in replies.values():
        assert 0 < reply.output_tokens <= 12
        assert (reply.finish_reason == "length") == (reply.output_tokens == 12)


def test_what_is_no_judge(tmp_path, folder):
    for path, words in ((tmp_path / "none", "is no folder"), (tmp_path, "cannot be loaded")):
        preset = preset_of("transformers", model=str(path))
        with pytest.raises(UserError, match=words), open_judge(preset, 5):
            pass
