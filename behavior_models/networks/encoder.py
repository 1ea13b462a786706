"""The encoder of a network: residual for observations with an image, otherwise that of sets of agents and polylines."""

from flax import nnx

from behavior_models.networks.resnet import IMAGE, ResNet, small_resnet
from behavior_models.networks.scene_encoder import NetworkConfig, SceneEncoder
from waymax_sim.env.encoder import ObservationSpec


def build_encoder(spec: ObservationSpec, config: NetworkConfig, *, rngs: nnx.Rngs) -> SceneEncoder | ResNet:
    """The encoder for observations; its `num_outputs` is the number of its outputs.

    Args:
      spec: Content of the encoded observations.
      config: Size; `resnet` for images.
      rngs: Random streams of the initial parameters.
    """
    if spec.features[0].name != IMAGE:
        return SceneEncoder(spec, config, rngs=rngs)
    return ResNet(spec, config.resnet or small_resnet(1), config.dtype, rngs=rngs)


def small_network(multiple: int) -> NetworkConfig:
    """A network for images of 32 x 32 cells: about 30, 120, 500 and 2000 k parameters for multiples 1, 2, 4, 8."""
    return NetworkConfig(trunk=32 * multiple, resnet=small_resnet(multiple))
