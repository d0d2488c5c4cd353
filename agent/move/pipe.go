package move

import (
	"io"
	"sync"
)

// A transfer is a pipeline: the link sends one piece while the source pool reads the next one and the target pool
// writes the previous one. A piece is a little larger than a frame of a pool's stream, so that it can contain a whole
// frame: after an interruption, an incomplete frame is discarded. The receiver buffers 16 pieces, an eighth of a second
// of a link of 1 Gbit/s: in that time a pool can clone the base of a difference, or wait for its disk.
const (
	pipePieces  = 4
	aheadPieces = 16
	pipePiece   = 1<<20 + 4<<10
)

// pieces are the buffers that circulate between the goroutine that fills them and the one that empties them.
type pieces struct{ full, free chan []byte }

func newPieces(n int) pieces {
	p := pieces{make(chan []byte, n), make(chan []byte, n)}
	for range n {
		p.free <- nil // allocated when needed: most transfers are small
	}
	return p
}

func resetPiece(b []byte) []byte {
	if b == nil {
		b = make([]byte, 0, pipePiece)
	}
	return b[:0]
}

// readAheadReader is a reader that reads the next data while its user processes earlier data.
type readAheadReader struct {
	pieces

	stop  chan struct{}
	owner sync.WaitGroup
	fault error // the error that the underlying reader ended with; valid once full is closed
	piece []byte
	left  []byte // rest of the piece
	err   error  // the error that was returned
}

// readAhead reads from r until r fails or close is called.
func readAhead(r io.Reader) *readAheadReader {
	a := &readAheadReader{pieces: newPieces(aheadPieces), stop: make(chan struct{})}
	a.owner.Go(func() {
		defer close(a.full)
		for {
			var b []byte
			select {
			case b = <-a.free:
			case <-a.stop:
				return
			}
			b = resetPiece(b)
			n, err := r.Read(b[:cap(b)])
			a.full <- b[:n] // full has room for all pieces
			if err != nil {
				a.fault = err
				return
			}
		}
	})
	return a
}

func (a *readAheadReader) Read(b []byte) (int, error) {
	for len(a.left) == 0 {
		if a.piece != nil {
			a.free <- a.piece
			a.piece = nil
		}
		piece, more := <-a.full
		if !more {
			a.err = a.fault
			return 0, a.err
		}
		a.piece, a.left = piece, piece
	}
	n := copy(b, a.left)
	a.left = a.left[n:]
	return n, nil
}

// close waits for the goroutine that reads ahead. That goroutine ends when the underlying reader returns no more data,
// so the caller must close that reader first.
func (a *readAheadReader) close() {
	close(a.stop)
	a.owner.Wait()
}

// writeBehindWriter is a writer that writes while its user prepares the next data.
type writeBehindWriter struct {
	pieces

	owner  sync.WaitGroup
	piece  []byte
	failed chan struct{} // closed once there is an error
	err    error
}

// writeBehind writes to w, in pieces, until w fails or close is called.
func writeBehind(w io.Writer) *writeBehindWriter {
	b := &writeBehindWriter{pieces: newPieces(pipePieces), failed: make(chan struct{})}
	b.owner.Go(func() {
		for p := range b.full {
			if b.err == nil {
				if _, b.err = w.Write(p); b.err != nil {
					close(b.failed)
				}
			}
			b.free <- p
		}
	})
	return b
}

func (b *writeBehindWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		rest := p[done:]
		if len(b.piece) > 0 && len(rest) > cap(b.piece)-len(b.piece) {
			b.sendPiece()
		}
		if b.piece == nil {
			b.piece = resetPiece(<-b.free)
			select {
			case <-b.failed:
				return done, b.err
			default:
			}
		}
		n := min(cap(b.piece), len(rest))
		b.piece = append(b.piece, rest[:n]...)
		if done += n; len(b.piece) > pipePiece/2 {
			b.sendPiece()
		}
	}
	return done, nil
}

func (b *writeBehindWriter) sendPiece() {
	b.full <- b.piece // full has room for all pieces
	b.piece = nil
}

// close returns after everything was written, or after a write has failed.
func (b *writeBehindWriter) close() error {
	if len(b.piece) > 0 {
		b.sendPiece()
	}
	close(b.full)
	b.owner.Wait()
	return b.err
}
