from tests.methods.fixtures import LABELS, Z_S, Z_T, T, both_precisions
from utils.methods import KD, TAKD, Scratch
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


@both_precisions
def test_worked_number_and_that_an_assistant_equal_to_the_teacher_makes_it_kd(to, close):
    def train(build_model, method, teacher):
        return teacher  # an assistant that says what its teacher says

    def loss(method, logits):
        return method.loss({"label": LABELS, "teacher": {"logits": logits}}, {"logits": to(Z_S)}, {})[0]

    method = TAKD(0.5, T, assistants=("mnist_assistant", "mnist_assistant"))
    told = method.prepare_teacher(train, to(Z_T), None)
    close(loss(method, told), 0.6417465935)
    close(loss(method, told), loss(KD(0.5, T), to(Z_T)))
    close(loss(TAKD(0.0, T), told), 0.9835306993)
    close(loss(TAKD(0.0, T), told), loss(Scratch(), told))
