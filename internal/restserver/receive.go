package restserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
)

// receive stores the body of a request as a new file.
//
// If the file exists and the request has the same content, the answer is the same as for a new file. restic sends a
// file again if the connection broke before the answer arrived. If the server refused the file then, restic would treat
// that as a failure, and repeat the request up to ten times, or for 15 minutes since version 0.17.
func (d *Directory) receive(w http.ResponseWriter, r *http.Request, root *os.File, o object, a Access) error {
	if err := mayAdd(root, o, a); err != nil {
		return err
	}
	size := r.ContentLength
	switch {
	case size < 0:
		return refuse(http.StatusLengthRequired, "the request does not say how large the file is")
	case size > maxSize(o.kind):
		return refuse(http.StatusRequestEntityTooLarge, "a file of %s may have %d bytes at most", o.kind,
			maxSize(o.kind))
	}
	body := &body{r.Body, r.Context(), http.NewResponseController(w), sha256.New()}
	if old, err := openObject(root, o); err == nil {
		return errors.Join(sameFile(old, body, o, size), old.Close())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if o.kind == kindLocks {
		a.Quota = 0 // a pull needs a lock, too
	}
	if err := d.reserve(r.Context(), o, size, a.Quota); err != nil {
		return err
	}
	added, stored := false, false
	defer func() { d.settle(o, size, added, stored) }()
	folder, err := openOrMake(root, o)
	if err != nil {
		return err
	}
	defer folder.Close()
	added, err = d.store(folder, body, o, size)
	stored = err == nil
	return err
}

// mayAdd fails unless a caller may add a file.
func mayAdd(root *os.File, o object, a Access) error {
	switch {
	case o.kind == config || o.kind == kindKeys:
		return refuse(http.StatusForbidden, "this server never adds %s", o.kind)
	case o.kind != kindLocks && !a.Push:
		return refuse(http.StatusForbidden, "the token lacks the right to push")
	}
	f, err := openObject(root, object{kind: config}) // absent if the disk of the repository is not mounted
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil || o.kind != kindLocks {
		return err
	}
	locks := 0
	err = eachFile(root, kindLocks, func(*os.File, string, fs.FileInfo) error { locks++; return nil })
	if err == nil && locks >= maxLocks {
		err = refuse(http.StatusServiceUnavailable, "the repository has too many locks")
	}
	return err
}

// damage is the error about a stored file whose size is wrong.
type damage struct {
	object
	got, want int64
}

func (d *damage) Error() string {
	return fmt.Sprintf("%s/%s is damaged: it has %d bytes instead of %d", d.kind, d.name, d.got, d.want)
}

// sameFile reads a body, and fails unless it is the content of an existing file.
func sameFile(old *os.File, b *body, o object, size int64) error {
	if err := b.copyTo(io.Discard, o, size); err != nil {
		return err
	}
	info, err := old.Stat()
	if err == nil && info.Size() != size {
		return &damage{o, info.Size(), size}
	}
	return err
}

// openOrMake opens the folder of a new file. It makes the folder of a pack if it does not exist.
func openOrMake(root *os.File, o object) (*os.File, error) {
	folder, err := openFolder(root, o)
	if !errors.Is(err, fs.ErrNotExist) || o.kind != kindData {
		return folder, err
	}
	data, err := openAt(root, kindData, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	if err := unix.Mkdirat(int(data.Fd()), o.name[:2], 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, &fs.PathError{Op: "mkdir", Path: o.name[:2], Err: err}
	}
	if err := data.Sync(); err != nil {
		return nil, err
	}
	return openFolder(root, o)
}

// store writes a body to a temporary file, and gives it its name once its content is complete and on disk. It reports
// whether it added a file.
func (d *Directory) store(folder *os.File, b *body, o object, size int64) (added bool, err error) {
	name := d.uploads.begin(o)
	defer d.uploads.end(name) // when the file has its name or is removed
	f, err := openAt(folder, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return false, err
	}
	defer func() {
		if !added {
			err = errors.Join(err, unlink(folder, name))
		}
	}()
	err = b.copyTo(f, o, size)
	if err == nil {
		err = errors.Join(f.Chmod(0o400), f.Sync()) // the mode that restic gives its files
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	if err := install(folder, name, o.name); !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	return false, nil // another request has stored the same content meanwhile
}

func unlink(folder *os.File, name string) error {
	err := unix.Unlinkat(int(folder.Fd()), name, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// body is the body of a request. A read fails if the client sends nothing for the time idle, or if the request has
// ended.
type body struct {
	io.Reader
	request context.Context
	control *http.ResponseController
	sum     hash.Hash
}

func (b *body) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(clock.Deadline(idle)) // a recorder of a test has no deadlines
	if err := ended(b.request); err != nil {
		return 0, err
	}
	n, err := b.Reader.Read(p)
	b.sum.Write(p[:n])
	if why := ended(b.request); err != nil && why != nil {
		err = why
	}
	return n, err
}

// copyTo copies the body. It fails unless the body has the given size, and unless the name of the file is its SHA-256.
func (b *body) copyTo(w io.Writer, o object, size int64) error {
	write := &writer{w: w}
	n, err := io.Copy(write, io.LimitReader(b, size+1))
	var no *Refusal
	switch {
	case errors.As(err, &no):
		return no
	case write.err != nil:
		return fmt.Errorf("store a file of %s: %w", o.kind, write.err)
	case err != nil || n != size:
		return refuse(http.StatusBadRequest, "the connection ended before the file was complete")
	case hex.EncodeToString(b.sum.Sum(nil)) != o.name:
		return refuse(http.StatusBadRequest, "the name of the file is not the SHA-256 of its content")
	}
	return nil
}

// writer remembers its error, so that a failure of the disk differs from one of the connection.
type writer struct {
	w   io.Writer
	err error
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}
