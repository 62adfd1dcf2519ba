"""InternVL2.5: an InternViT tower, pixel shuffle, a projector and a Qwen2 or other decoder; one tile an image."""

from bye.models.family import Family


class InternVL(Family):
    """`InternVLForConditionalGeneration`, prompts in ChatML, one tile of the tower's size for each image."""

    model_type = "internvl"
    image_token = "<IMG_CONTEXT>"

    @classmethod
    def classes(cls):
        from transformers import InternVLForConditionalGeneration
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        return InternVLForConditionalGeneration, GotOcr2ImageProcessorPil

    def image_ids(self, size=None):
        start, end = self.tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
        return [start, *[self.image_token_id] * self.n_image_tokens, end]

    def pixels(self, images):
        pixels = self.image_processor(images=images, crop_to_patches=False, return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"]}
