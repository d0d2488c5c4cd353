package move

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/droverhq/drover/dataset"
)

// A transfer is a sequence of frames:
//
//	kind     1 byte   'D' bytes, 'Z' bytes compressed with zstd, 'K' keep-alive, 'E' end, 'X' failure
//	length   4 bytes  of the payload, little-endian
//	payload           E: JSON of the summary, X: JSON of a problem
//
// The last frame is E or X. A stream without such a frame was cut off. Frames have no checksum: the connection has one
// (TLS), and the stream in the frames has a SHA-256, which is verified before a snapshot appears.
const (
	frameHeader = 5
	maxFrame    = 2 << 20
)

const (
	// framesHeader is a header of requests and answers. In a request it has the latest version of the frames that the
	// client reads, in an answer the version of the frames that follow, and of the stream in them (backends/stream).
	// An absent header means version 1.
	framesHeader  = "Drover-Frames"
	framesVersion = 1
)

// checkFrames fails with dataset.ErrUnsupported if an answer has frames of a later version.
func checkFrames(h http.Header) error {
	version, err := strconv.Atoi(h.Get(framesHeader))
	if err != nil {
		return nil // absent
	}
	return dataset.CheckFormat("the peer's stream of frames", version, framesVersion)
}

const (
	frameData       = 'D'
	frameCompressed = 'Z'
	frameAlive      = 'K'
	frameEnd        = 'E'
	frameProblem    = 'X'
)

// errFrame means that the peer violates the format. It has no kind on purpose. A kind such as ErrCorrupt would make
// the receiving pool discard the bytes that arrived earlier, which are correct in most cases. If they are not, the
// checksum of the whole stream shows it.
var errFrame = errors.New("the peer sent a bad frame")

// flushWriter buffers writes until it is flushed.
type flushWriter interface {
	io.Writer
	Flush() error
}

// frameWriter writes frames. Safe for concurrent use, because another goroutine sends keep-alive frames between the
// others.
type frameWriter struct {
	mu          sync.Mutex
	w           flushWriter
	frames      int
	encoder     *zstd.Encoder
	buf         []byte
	compression compressionPolicy
	// now measures how long the link and the processor take. If nil, nothing is compressed.
	now func() int64
}

// Write sends bytes of the stream, compressed if that is faster on this link.
func (f *frameWriter) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	done := 0
	for len(b) > 0 {
		n := min(len(b), maxFrame)
		if err := f.data(b[:n]); err != nil {
			return done, err
		}
		b, done = b[n:], done+n
	}
	return done, nil
}

func (f *frameWriter) data(b []byte) error {
	empty := f.now != nil && mostlyZeros(b)
	if f.now == nil || !empty && !f.compression.shouldCompress() {
		return f.frame(frameData, b)
	}
	start := f.now()
	if f.encoder == nil {
		var err error
		// One thread and little memory, because the host's containers have priority.
		f.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
		if err != nil {
			return err
		}
	}
	f.buf = f.encoder.EncodeAll(b, f.buf[:0])
	if !empty {
		f.compression.recordCompression(len(b), len(f.buf), f.now()-start)
	}
	if len(f.buf) >= len(b) {
		return f.frame(frameData, b)
	}
	return f.frame(frameCompressed, f.buf)
}

func (f *frameWriter) frame(kind byte, payload []byte) error {
	h := [frameHeader]byte{kind}
	binary.LittleEndian.PutUint32(h[1:], uint32(len(payload)))
	f.frames++
	var start int64
	if f.now != nil {
		start = f.now()
	}
	if _, err := f.w.Write(h[:]); err != nil {
		return err
	}
	if _, err := f.w.Write(payload); err != nil {
		return err
	}
	if err := f.w.Flush(); err != nil {
		return err
	}
	if f.now != nil && len(payload) > 0 {
		f.compression.recordSend(len(payload), f.now()-start)
	}
	return nil
}

// alive tells the receiver that more frames will follow.
func (f *frameWriter) alive() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frame(frameAlive, nil)
}

// end writes the last frame: a summary of the transfer, or the problem that ended it.
func (f *frameWriter) end(sent any, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind := byte(frameEnd)
	if err != nil {
		kind, sent = frameProblem, dataset.ProblemOf(err)
	}
	raw, err := json.Marshal(sent)
	if err != nil {
		return err
	}
	return f.frame(kind, raw)
}

// count returns how many frames were written.
func (f *frameWriter) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frames
}

// frameReader reads the payloads of frames. After the end frame it returns io.EOF, and *peerError if the sender failed.
// For a stream without an end frame, it returns io.ErrUnexpectedEOF. If the peer itself ended its answer there, and the
// connection did not break, that error also wraps errFrame.
type frameReader struct {
	r       io.Reader
	frames  int
	stored  []byte
	plain   []byte
	left    []byte // of the present frame
	read    int64  // bytes, including the framing
	decoder *zstd.Decoder
	end     json.RawMessage // content of the end frame
	err     error
}

// peerError is a failure of the peer. On purpose, errors.Is does not find its kind. If the source finds that its own
// data is damaged, the bytes that arrived earlier are still correct.
type peerError struct{ problem dataset.Problem }

func (e *peerError) Error() string { return e.problem.Message }

func (f *frameReader) Read(b []byte) (int, error) {
	for len(f.left) == 0 {
		if f.err == nil {
			f.err = f.frame()
		}
		if f.err != nil {
			return 0, f.err
		}
	}
	n := copy(b, f.left)
	f.left = f.left[n:]
	return n, nil
}

func (f *frameReader) close() {
	if f.decoder != nil {
		f.decoder.Close()
	}
}

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFrame, fmt.Sprintf(format, args...))
}

func (f *frameReader) readFull(b []byte) error {
	in := &endReader{r: f.r}
	n, err := io.ReadFull(in, b)
	f.read += int64(n)
	switch {
	case err == nil:
		return nil
	case in.ended:
		return fmt.Errorf("%w: the response ended within or before frame %d: %w", errFrame, f.frames,
			io.ErrUnexpectedEOF)
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// endReader records that its reader has come to an end, as opposed to a broken connection.
type endReader struct {
	r     io.Reader
	ended bool
}

func (e *endReader) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	e.ended = err == io.EOF // net/http returns io.EOF itself; a wrapped one means that the connection broke
	return n, err
}

// frame reads one frame, and keeps its content.
func (f *frameReader) frame() error {
	var h [frameHeader]byte
	if err := f.readFull(h[:]); err != nil {
		return err
	}
	length := binary.LittleEndian.Uint32(h[1:])
	if length > maxFrame {
		return formatError("a frame of %d bytes: the maximum is %d", length, maxFrame)
	}
	f.frames++
	if uint32(cap(f.stored)) < length {
		f.stored = make([]byte, length)
	}
	payload := f.stored[:length]
	if err := f.readFull(payload); err != nil {
		return err
	}
	return f.accept(h[0], payload)
}

func (f *frameReader) accept(kind byte, payload []byte) (err error) {
	switch kind {
	case frameData:
		f.left = payload
	case frameAlive:
	case frameCompressed:
		f.left, err = f.decompress(payload)
	case frameEnd:
		f.end = append(json.RawMessage(nil), payload...)
		return io.EOF
	case frameProblem:
		e := &peerError{}
		if err := json.Unmarshal(payload, &e.problem); err != nil {
			return formatError("a problem report that cannot be read")
		}
		e.problem.Message = dataset.Cut(e.problem.Message)
		return e
	default:
		return formatError("a frame of unknown kind %q", kind)
	}
	return err
}

func (f *frameReader) decompress(payload []byte) ([]byte, error) {
	if f.decoder == nil {
		var err error
		// The limit rejects compressed data that would become larger than a frame.
		f.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame),
			zstd.WithDecoderMaxWindow(maxFrame))
		if err != nil {
			return nil, err
		}
	}
	out, err := f.decoder.DecodeAll(payload, f.plain[:0])
	if err != nil {
		return nil, formatError("frame %d cannot be decompressed", f.frames-1)
	}
	f.plain = out
	return out, nil
}

// compressionPolicy decides whether to compress. It compresses if the processor takes less time for a byte than the
// link takes for the bytes that compression saves. Both are measured continuously, in nanoseconds. If the link
// accepts data as fast as it is produced (a local network, or a link whose buffers are not full yet), the sender
// never waits for the link, and so does not compress.
type compressionPolicy struct {
	link   float64 // time that the link needs for a byte
	cpu    float64 // time that compressing a byte takes
	ratio  float64 // compressed size divided by size
	tried  bool
	frames int
}

const (
	// measurementWeight is the weight of the last measurement.
	measurementWeight = 0.2
	// trialInterval is the interval, in frames, at which compression is tried again, because data changes.
	trialInterval = 64
	// maxCostRatio is the largest cost of a compressed byte that is accepted, as a part of the cost of an
	// uncompressed byte. A smaller saving is not worth the processor time, which the host's containers need.
	maxCostRatio = 0.9
)

// shouldCompress reports whether the next frame should be compressed.
func (p *compressionPolicy) shouldCompress() bool {
	p.frames++
	if !p.tried {
		return p.frames > 1 // the first frame only shows how fast the link is
	}
	return p.frames%trialInterval == 0 || p.cpu+p.ratio*p.link < maxCostRatio*p.link
}

func (p *compressionPolicy) recordSend(bytes int, nanos int64) {
	average(&p.link, float64(nanos)/float64(bytes), p.link == 0)
}

func (p *compressionPolicy) recordCompression(from, to int, nanos int64) {
	average(&p.cpu, float64(nanos)/float64(from), !p.tried)
	average(&p.ratio, float64(to)/float64(from), !p.tried)
	p.tried = true
}

func average(mean *float64, now float64, first bool) {
	if first {
		*mean = now
		return
	}
	*mean += measurementWeight * (now - *mean)
}

const (
	// zerosStride is the distance of the bytes that are examined. It divides no block size.
	zerosStride = 61
	// zerosPart determines how many of the examined bytes must be zero: one in zerosPart, which is a quarter.
	zerosPart = 4
)

// mostlyZeros reports whether much of b is zeros, judging by some of its bytes. Compressing zeros takes less time than
// their checksum, and is worthwhile on any link. For a small change most of the transferred data can be such zeros:
// with each mount, XFS rewrites 2 MiB of its log with one header of about 50 bytes in each sector.
func mostlyZeros(b []byte) bool {
	zeros := 0
	for i := 0; i < len(b); i += zerosStride {
		if b[i] == 0 {
			zeros++
		}
	}
	return zeros*zerosStride*zerosPart >= len(b)
}
