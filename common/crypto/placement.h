// Where OpenSSL's objects lie in memory.
#pragma once

namespace ebb::crypto {

/// From here on no object that OpenSSL allocates crosses a page, if it is of a cipher context's size (256 to 2,048
/// bytes). AES-GCM stores its counter into the context with every 96 bytes; where an accident of the heap puts that
/// counter across a page, sealing takes a tenth more (measured with OpenSSL 3.0 on x86). False: OpenSSL has allocated
/// already, and everything stays as it was.
bool keep_contexts_within_pages();

}  // namespace ebb::crypto
