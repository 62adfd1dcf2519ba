"""LLaVA-1.5: a CLIP vision tower, a two-layer projector and a Llama decoder; one image token a patch."""

from bye.models.family import Family


class Llava(Family):
    """`LlavaForConditionalGeneration`, prompts as `USER: <image>\\n{question} ASSISTANT: {answer}</s>`."""

    model_type = "llava"
    image_token = "<image>"

    @classmethod
    def classes(cls):
        from transformers import LlavaForConditionalGeneration
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return LlavaForConditionalGeneration, CLIPImageProcessorPil

    def image_ids(self, size=None):
        return [self.image_token_id] * self.n_image_tokens
