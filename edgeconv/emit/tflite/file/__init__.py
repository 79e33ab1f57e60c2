"""TFLite graph -> the bytes of a file: stored weights, operator versions, flatbuffer."""
