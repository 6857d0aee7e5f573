"""The vocabulary that a language model writes (section 3.5, LaMDA-LF, and Appendix C).

``prompt``    what the model is asked
``models``    who is asked: an endpoint that speaks OpenAI's protocol, or a local model
``ask``       every song, with retries, a rate limit and a journal: nothing is lost, all is counted
``clean``     from answers to captions, and what each filter dropped
"""
