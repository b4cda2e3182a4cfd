"""What a checkpoint holds, and how a training takes it up."""

from fineclip.errors import TrainingError
from fineclip.methods.chunks import Chunks
from fineclip.train.training import Learner, Training, chunks_for
from fineclip.version import __version__


def save(training: Training, learner: Learner, done: int) -> None:
    """Everything that the next step depends on. Draws depend on seed, step and process alone: no generator is kept."""
    chunks, position = training.method.chunks, training.order.position(done)
    content = {
        "method": training.method.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.precision.scaler.state_dict(),
        "watch": learner.watch.state(),
        "chunks": {"crops": chunks.crops, "images": chunks.images},
        "position": position._asdict(),
        "config": training.config.model_dump(mode="json"),
        "code": __version__,
    }
    training.processes.first_does(lambda: training.state.save(done, content))


def resume(training: Training, learner: Learner) -> int:
    """Steps that earlier attempts made; method, optimiser and what else a step depends on are set to where they stood.

    Raises:
        ConfigError: it does not fit into the memory.
        TrainingError: the processes do not find the same checkpoint.
    """
    found = training.state.load()
    done = 0 if found is None else found[0]
    agreed = training.processes.first_does(lambda: done)
    if agreed != done:
        raise TrainingError(
            f"{training.state.folder}: the first process finds a checkpoint of step {agreed}, this one of step {done}."
            " All processes must see the same folder."
        )
    if found is None:
        training.method.chunks = chunks_for(training, learner.precision)
        return 0
    content = found[1]
    training.method.load_state_dict(content["method"])
    learner.optimizer.load_state_dict(content["optimizer"])
    learner.precision.scaler.load_state_dict(content["scaler"])
    learner.watch.take_up(content["watch"])
    training.method.chunks = chunks_for(training, learner.precision, before=Chunks(**content["chunks"]))
    return done
