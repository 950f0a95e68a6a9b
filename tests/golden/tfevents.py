"""Prints the event records that tests/test_tfevents.c compares with, made by Google's protobuf from
TensorBoard's field numbers (tensorflow/core: util/event.proto, framework/{summary,tensor}.proto).
Needs only python3-protobuf; not needed to run the tests."""
import struct

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

F = descriptor_pb2.FieldDescriptorProto
MESSAGES = {  # name: [(field, number, type, repeated)]
    "Image": [("height", 1, F.TYPE_INT32, 0), ("width", 2, F.TYPE_INT32, 0),
              ("colorspace", 3, F.TYPE_INT32, 0), ("encoded_image_string", 4, F.TYPE_BYTES, 0)],
    "PluginData": [("plugin_name", 1, F.TYPE_STRING, 0), ("content", 2, F.TYPE_BYTES, 0)],
    "Metadata": [("plugin_data", 1, "PluginData", 0)],
    "Dim": [("size", 1, F.TYPE_INT64, 0)],
    "Shape": [("dim", 2, "Dim", 1)],
    "Tensor": [("dtype", 1, F.TYPE_INT32, 0), ("tensor_shape", 2, "Shape", 0),
               ("string_val", 8, F.TYPE_BYTES, 1)],
    "Value": [("tag", 1, F.TYPE_STRING, 0), ("simple_value", 2, F.TYPE_FLOAT, 0),
              ("image", 4, "Image", 0), ("tensor", 8, "Tensor", 0), ("metadata", 9, "Metadata", 0)],
    "Summary": [("value", 1, "Value", 1)],
    "Event": [("wall_time", 1, F.TYPE_DOUBLE, 0), ("step", 2, F.TYPE_INT64, 0),
              ("file_version", 3, F.TYPE_STRING, 0), ("summary", 5, "Summary", 0)],
}


def make_event_class():
    file = descriptor_pb2.FileDescriptorProto(name="tb.proto", package="tb", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            row = message.field.add(name=field, number=number)
            row.label = F.LABEL_REPEATED if repeated else F.LABEL_OPTIONAL
            if isinstance(kind, str):
                row.type, row.type_name = F.TYPE_MESSAGE, ".tb." + kind
            else:
                row.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tb.Event"))


def masked_crc(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    crc ^= 0xffffffff
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def record(event):
    data = event.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(data))
    return (length + struct.pack("<I", masked_crc(length)) + data +
            struct.pack("<I", masked_crc(data)))


Event = make_event_class()
image = {"height": 1, "width": 2, "colorspace": 3, "encoded_image_string": b"PNG"}
text = {"tag": "cfg", "metadata": {"plugin_data": {"plugin_name": "text"}},
        "tensor": {"dtype": 7, "tensor_shape": {"dim": [{"size": 1}]}, "string_val": [b"hi"]}}
for event in (Event(wall_time=1.0, file_version="brain.Event:2"),
              Event(wall_time=2.0, step=300,
                    summary={"value": [{"tag": "loss", "simple_value": 0.5}]}),
              Event(wall_time=3.0, step=1, summary={"value": [{"tag": "img", "image": image}]}),
              Event(wall_time=4.0, summary={"value": [text]})):
    print(record(event).hex())
