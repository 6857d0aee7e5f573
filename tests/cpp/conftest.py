"""Its folder is on the path of the tests below it: they share the tools of test_consumer.py."""
