"""transformers' ModelTesterMixin and ConfigTester on all of Casita's classes, image and learned table."""

import copy
import unittest

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask

from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import (
    CasitaForMaskedEventModeling,
    CasitaForSequenceClassification,
    CasitaModel,
    CasitaSensorModel,
)

AutoConfig.register("casita", CasitaConfig)
AutoModel.register(CasitaConfig, CasitaModel)
AutoModelForMaskedLM.register(CasitaConfig, CasitaForMaskedEventModeling)
AutoModelForSequenceClassification.register(CasitaConfig, CasitaForSequenceClassification)
# The tests look classes up by name, so that each gets labels of its kind, and the tower alone none.
modeling_auto.MODEL_MAPPING_NAMES["casita"] = "CasitaSensorModel"
modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES["casita"] = "CasitaForMaskedEventModeling"
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["casita"] = "CasitaForSequenceClassification"


class CasitaTester:
    """The small model and batch that the mixin asks for."""

    is_training = True
    encoder_seq_length = 8  # hidden states and attentions hold the CLS token too
    batch_size, seq_length, num_hidden_layers, num_attention_heads, hidden_size = 5, 7, 2, 4, 32

    def __init__(self, **config):
        self.config = config

    def get_config(self) -> CasitaConfig:
        return CasitaConfig(
            vocab_size=99,
            image_embedding_dim=24,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=64,
            projection_dim=16,
            text_embedding_dim=12,
            **self.config,
        )

    def prepare_config_and_inputs_for_common(self):
        inputs = {
            "input_ids": ids_tensor([self.batch_size, self.seq_length], 96) + 3,
            "attention_mask": random_attention_mask([self.batch_size, self.seq_length]),
        }
        return self.get_config(), inputs


class CasitaTests(ModelTesterMixin):
    """What both tables share."""

    all_model_classes = (CasitaModel, CasitaSensorModel, CasitaForMaskedEventModeling, CasitaForSequenceClassification)
    config: dict = {}

    def setUp(self):
        self.model_tester = CasitaTester(**self.config)
        self.config_tester = ConfigTester(self, config_class=CasitaConfig, hidden_size=32)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(copy.copy(inputs_dict), model_class, return_labels)
        if return_labels and model_class is CasitaForMaskedEventModeling:
            inputs["labels"] = inputs["labels"] + 3  # the mixin's 0 is padding, which is no event
        if return_labels and model_class is CasitaModel:
            inputs["text_embeds"] = torch.randn(len(inputs["input_ids"]), 12, generator=torch.manual_seed(0))
            inputs["return_loss"] = True
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()


class CasitaImageTest(CasitaTests, unittest.TestCase):
    pass


class CasitaLearnedTest(CasitaTests, unittest.TestCase):
    config = {"embedding_source": "learned", "num_sensors": 4, "num_states": 2, "num_rooms": 3}


def skip(reason: str, start: str, *classes: type) -> None:
    """Skip the tests of `classes` whose names start so, for a stated reason."""
    for cls in classes:
        for name in [name for name in dir(cls) if name.startswith(start)]:
            setattr(cls, name, unittest.skip(reason)(getattr(cls, name)))


BOTH = (CasitaImageTest, CasitaLearnedTest)
NO_TEXT = "Casita has no text tower: get_text_features projects what a frozen sentence model made"
SUM = "a learned row is the sum of three embeddings, no nn.Embedding; set_sensor_vocabulary sets the rows"
skip(NO_TEXT, "test_get_text_features", *BOTH)
skip("the table is not a parameter, so no gradient can be asked of it", "test_enable_input_require_grads", *BOTH)
skip(SUM, "test_model_get_set_embeddings", CasitaLearnedTest)
skip(SUM, "test_resize_tokens_embeddings", CasitaLearnedTest)
skip("Casita is one model, not several in one", "test_sdpa_can_dispatch_composite_models", *BOTH)
del CasitaTests, ModelTesterMixin  # pytest would collect the mixins themselves
