from utils.methods import KD, TAKD
from utils.methods.takd import chains
from utils.models import mnist_assistant


def test_there_are_2_to_the_n_chains_in_order_of_size():
    assert chains(()) == [()]
    assert len(chains(("large", "middle", "small"))) == 8
    assert chains(("large", "small")) == [(), ("large",), ("small",), ("large", "small")]


def test_each_assistant_is_taught_by_the_one_before():
    asked = []

    def train(build_model, method, teacher):
        asked.append((build_model, method, teacher))
        return f"assistant {len(asked)}"

    expected = KD(0.3, 2.0)
    method = TAKD(assistants=("mnist_assistant", "mnist_assistant"), hop=expected)
    assert method.prepare_teacher(train, "teacher", None) == "assistant 2"
    assert asked == [(mnist_assistant, expected, "teacher"), (mnist_assistant, expected, "assistant 1")]
    assert TAKD(assistants=()).prepare_teacher(train, "teacher", None) == "teacher"
