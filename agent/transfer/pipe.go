package transfer

import (
	"io"
	"sync"
)

// A transfer is a pipe: while a pool reads and sums up, or sums up and writes, the link is
// busy with what came before or comes next. Each side holds so many pieces for that, of so
// many bytes at most: a little more than a frame of a pool's stream has, since of one that is
// cut nothing is kept. Who receives holds more: an eighth of a second of a link of 1 Gbit/s,
// in which a pool clones what the stream is a difference to, or waits for its disk.
const (
	pipePieces  = 4
	aheadPieces = 16
	pipePiece   = 1<<20 + 4<<10
)

// pieces go round between who fills and who empties them.
type pieces struct{ full, free chan []byte }

func newPieces(n int) pieces {
	p := pieces{make(chan []byte, n), make(chan []byte, n)}
	for range n {
		p.free <- nil // made when they are needed: most transfers are small
	}
	return p
}

func emptied(b []byte) []byte {
	if b == nil {
		b = make([]byte, 0, pipePiece)
	}
	return b[:0]
}

// ahead reads while who reads from it is busy with what came before.
type ahead struct {
	pieces

	stop  chan struct{}
	owner sync.WaitGroup
	fault error // what the reader below ended with; known once full is closed
	piece []byte
	left  []byte // of the piece
	err   error  // that was returned
}

// readAhead reads from r until that fails or close is called.
func readAhead(r io.Reader) *ahead {
	a := &ahead{pieces: newPieces(aheadPieces), stop: make(chan struct{})}
	a.owner.Go(func() {
		defer close(a.full)
		for {
			var b []byte
			select {
			case b = <-a.free:
			case <-a.stop:
				return
			}
			b = emptied(b)
			n, err := r.Read(b[:cap(b)])
			a.full <- b[:n] // there is room for all of them
			if err != nil {
				a.fault = err
				return
			}
		}
	})
	return a
}

func (a *ahead) Read(b []byte) (int, error) {
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

// close ends it, once what it reads from gives no more: that is to be closed before.
func (a *ahead) close() {
	close(a.stop)
	a.owner.Wait()
}

// behind writes while who writes to it makes what comes next.
type behind struct {
	pieces

	owner  sync.WaitGroup
	piece  []byte
	failed chan struct{} // closed once there is an error
	err    error
}

// writeBehind writes to w, in pieces, until that fails or close is called.
func writeBehind(w io.Writer) *behind {
	b := &behind{pieces: newPieces(pipePieces), failed: make(chan struct{})}
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

func (b *behind) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		rest := p[done:]
		if len(b.piece) > 0 && len(rest) > cap(b.piece)-len(b.piece) {
			b.ship()
		}
		if b.piece == nil {
			b.piece = emptied(<-b.free)
			select {
			case <-b.failed:
				return done, b.err
			default:
			}
		}
		n := min(cap(b.piece), len(rest))
		b.piece = append(b.piece, rest[:n]...)
		if done += n; len(b.piece) > pipePiece/2 {
			b.ship()
		}
	}
	return done, nil
}

func (b *behind) ship() {
	b.full <- b.piece // there is room for all of them
	b.piece = nil
}

// close returns once all is written, or could not be.
func (b *behind) close() error {
	if len(b.piece) > 0 {
		b.ship()
	}
	close(b.full)
	b.owner.Wait()
	return b.err
}
