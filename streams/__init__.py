"""The process: Kafka, Faust, settings, command line and metrics around the step."""

OURS = ("streams", "encoders", "ranking")  # an error that is declared in one of them says itself what to do
