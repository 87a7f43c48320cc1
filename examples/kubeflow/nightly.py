"""A team's own pipeline that uses a few of lwplugin's components between its own.

    LWPLUGIN_IMAGE=registry.example/lwplugin:cpu python nightly.py nightly.yaml

It trains in the team's container, prunes and quantizes what was registered, and hands the file to the team's
own publishing step once the gate has passed. No recipe: every component is called by hand.
"""

import sys

from kfp import compiler, dsl, kubernetes
from lwplugin.components.kubeflow import export, gate, measure, prune, pull, quantize

DATA = {"source": "digits", "test_fraction": 0.4}


@dsl.container_component
def train(epochs: int, model: dsl.OutputPath(str)):
    """The team's image trains, registers, and writes `models:/digits-cnn/7` to the file it is given."""
    return dsl.ContainerSpec(
        image="registry.example/team/digits:latest",
        command=["python", "train.py"],
        args=["--epochs", epochs, "--write-version-to", model],
    )


@dsl.component(base_image="registry.example/team/digits:latest")
def publish(exported: dsl.Input[dsl.Model], bucket: str) -> None:
    """The team's own way of bringing a file to its devices."""
    print(f"would copy {exported.path}/export/model.onnx to {bucket}")


@dsl.pipeline(name="digits-nightly")
def nightly(epochs: int = 12, bucket: str = "s3://devices/digits") -> None:
    """Train, lighten, prove, publish."""
    trained = train(epochs=epochs)
    parent = pull(model=trained.outputs["model"])
    pruned = prune(bundle=parent.outputs["light"], data=DATA, method="taylor", options={"macs": 0.5})
    kubernetes.add_node_selector(pruned, label_key="pool", label_value="gpu")
    pruned.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
    light = quantize(bundle=pruned.outputs["light"], data=DATA, method="int8").outputs["light"]
    file = export(bundle=light, data=DATA).outputs["exported"]
    before = export(bundle=parent.outputs["light"], data=DATA).outputs["exported"]
    compared = measure(
        candidate=file, baseline=before, light=light, parent=parent.outputs["light"], data=DATA, threads=1
    )
    judged = gate(
        comparison=compared.outputs["comparison"],
        export=file,
        policy={"max_drop": {"accuracy": 0.01}},
        budget={"size_bytes": 400_000},
    )
    with dsl.If(judged.outputs["Output"] == "pass", name="passed"):
        publish(exported=file, bucket=bucket)


if __name__ == "__main__":
    compiler.Compiler().compile(nightly, sys.argv[1] if len(sys.argv) > 1 else "nightly.yaml")
