"""The model card of a pipeline's model, in the form of Llama 2's own (paper A.7), and the check before it is published."""
