// Checksums: CRC-32C (Castagnoli), as iSCSI, ext4 and TensorBoard use it.
#ifndef BASE_CHECKSUM_H
#define BASE_CHECKSUM_H

#include <stdint.h>

// CRC-32C of `bytes` bytes, going on from `crc` (0 at the start). crc32c(0, "123456789", 9) is
// 0xe3069283.
uint32_t crc32c(uint32_t crc, const void *data, int64_t bytes);

#endif
