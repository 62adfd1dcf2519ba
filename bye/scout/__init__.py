"""The scout: a vision-language model of laptop size, put together from real pre-trained parts."""
