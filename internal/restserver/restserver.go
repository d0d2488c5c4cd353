// Package restserver serves a directory with a repository of restic by restic's REST protocol. Package
// agent/remoteserver, which knows who may use which repository, calls it for each request.
//
// The protocol is described in "References: REST Backend" of restic's documentation,
// restic.readthedocs.io/en/stable/100_references.html. The server is append-only. It never replaces a file, and removes
// only locks and, for a caller that may push, snapshots. It accepts a file only if its name is the SHA-256 of its
// content, so each stored file is complete. It does not check that restic made the content.
//
// A caller chooses the names in a request. [parse] accepts only the names of the protocol. The files are opened below
// the directory, without following symbolic links: see files.go. File usage.go counts the bytes of the directory for
// the quota.
//
// A [Directory] keeps two things in memory, which a mutex protects: the bytes of the files, and the uploads in progress
// with their bytes. [Uploads] has the names of their temporary files, which another mutex protects. The mutexes are
// free while the disk is accessed. The files themselves are protected by their names: two uploads of a file have the
// same content.
package restserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
)

// Access says what the client of a request may do. Each client may read files. Each client may also create and remove
// locks, because restic locks a repository while it reads.
type Access struct {
	Push  bool  // the caller may add files, and remove snapshots
	Quota int64 // the maximum size of the directory in bytes, for additions of this caller; 0 means no limit
}

// idle is how long a request may take without progress.
const idle = time.Minute

// The kinds of files in a repository, and the largest size of each one. restic writes packs of up to 128 MiB, and a
// pack can exceed that by one blob. All other kinds but indexes are small.
const (
	kindData      = "data"
	kindIndex     = "index"
	kindKeys      = "keys"
	kindLocks     = "locks"
	kindSnapshots = "snapshots"
	config        = "config"
)

func kinds() []string { return []string{kindData, kindIndex, kindKeys, kindLocks, kindSnapshots} }

func maxSize(kind string) int64 {
	switch kind {
	case kindData, kindIndex:
		return 256 << 20
	case kindSnapshots:
		return 8 << 20
	}
	return 64 << 10
}

// maxLocks is how many locks a directory can have. Each run of restic has one.
const maxLocks = 256

// object is a file, or a folder with files, that a request names.
type object struct {
	kind string // one of kinds, or config
	name string // 64 hexadecimal digits; empty for a folder and for config
}

// parse returns the object that the path of a request names, relative to the repository. ok is false for a path that is
// not of the protocol.
func parse(path string) (o object, ok bool) {
	if path == config {
		return object{kind: config}, true
	}
	kind, name, found := strings.Cut(path, "/")
	if !found {
		return o, false
	}
	for _, k := range kinds() {
		if k == kind && (name == "" || isName(name)) {
			return object{k, name}, true
		}
	}
	return o, false
}

// isName reports whether a text is the name of a file: a SHA-256 in hexadecimal digits.
func isName(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Refusal is a response to a request that is not carried out, or that the caller of Serve has ended.
type Refusal struct {
	status int
	text   string
}

func (r *Refusal) Error() string { return r.text }

// Answer answers a request.
func (r *Refusal) Answer(w http.ResponseWriter) { http.Error(w, r.text, r.status) }

// Refuse returns a Refusal with a status of HTTP.
func Refuse(status int, format string, args ...any) *Refusal {
	return &Refusal{status, fmt.Sprintf(format, args...)}
}

func refuse(status int, format string, args ...any) error { return Refuse(status, format, args...) }

// Serve answers a request. It does not authenticate the request: package remoteserver does that before. path is the
// path of the request relative to the repository, without a slash at its beginning. If the directory cannot be used,
// Serve answers with status 500, or with 507 if its disk is full, and returns the error. If the request adds a file
// that exists and is damaged, Serve answers with status 409, and returns the error, too. Serve returns nil if it
// refuses the request for another reason, if there is no such file, or if the client is gone.
//
// The caller can end a request by ending its context with a Refusal as the cause. If the response has not begun, it is
// then this Refusal. Otherwise the response is cut off.
func (d *Directory) Serve(w http.ResponseWriter, r *http.Request, path string, a Access) error {
	out := &steady{ResponseWriter: w, request: r.Context(), control: http.NewResponseController(w)}
	out.extend()
	forget := out.endWith(r)
	err := d.answer(out, r, path, a)
	forget()
	out.extend() // a response without a body is written when Serve has returned
	var no *Refusal
	var damaged *damage
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no):
		if !out.begun {
			no.Answer(w)
		}
		return nil
	case out.begun:
		return err
	case errors.Is(err, context.Canceled): // the client is gone
		return nil
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, "no such file", http.StatusNotFound)
		return nil
	case errors.As(err, &damaged):
		http.Error(w, "the file exists, and is damaged", http.StatusConflict)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		http.Error(w, "the disk of the repository is full", http.StatusInsufficientStorage)
	default:
		http.Error(w, "the directory of the repository cannot be used", http.StatusInternalServerError)
	}
	return err
}

func (d *Directory) answer(w http.ResponseWriter, r *http.Request, path string, a Access) error {
	if path == "" { // restic init asks to create the folders
		return refuse(http.StatusForbidden, "a repository cannot be created here")
	}
	o, ok := parse(path)
	if !ok {
		return refuse(http.StatusNotFound, "no such file")
	}
	root, err := openRoot(d.path)
	if err != nil {
		return err
	}
	defer root.Close()
	isFolder := o.kind != config && o.name == ""
	switch method := r.Method; {
	case isFolder && method == http.MethodGet:
		return list(w, r, root, o.kind)
	case isFolder:
		return refuse(http.StatusMethodNotAllowed, "a folder can only be listed")
	case method == http.MethodGet || method == http.MethodHead:
		return send(w, r, root, o)
	case method == http.MethodPost:
		return d.receive(w, r, root, o, a)
	case method == http.MethodDelete:
		return d.remove(root, o, a)
	}
	return refuse(http.StatusMethodNotAllowed, "expected GET, HEAD, POST or DELETE")
}

// The types of a list: of names, and of names with sizes.
const (
	typeV1 = "application/vnd.x.restic.rest.v1"
	typeV2 = "application/vnd.x.restic.rest.v2"
)

// listBuffer is how many bytes of a list are kept in memory.
const listBuffer = 32 << 10

// list answers with the files of a kind. It sends the list in parts, because a repository can have millions of files.
// If the directory fails or the request is ended after the first part, the list has no end, so that the client reports
// an error. If the request is ended before the first part, list returns the Refusal.
func list(w http.ResponseWriter, r *http.Request, root *os.File, kind string) error {
	withSizes := r.Header.Get("Accept") == typeV2
	contentType := typeV1
	if withSizes {
		contentType = typeV2
	}
	w.Header().Set("Content-Type", contentType)
	out := bufio.NewWriterSize(w, listBuffer)
	separator := "["
	err := eachFile(root, kind, func(_ *os.File, name string, info fs.FileInfo) error {
		if !isName(name) || !info.Mode().IsRegular() {
			return nil
		}
		var err error
		if withSizes {
			_, err = fmt.Fprintf(out, `%s{"name":"%s","size":%d}`, separator, name, info.Size())
		} else {
			_, err = fmt.Fprintf(out, `%s"%s"`, separator, name)
		}
		separator = ","
		if err != nil || r.Context().Err() != nil {
			return context.Canceled // the client is gone, or the request was ended
		}
		return nil
	})
	if err == nil {
		if separator == "[" {
			_, _ = out.WriteString("[")
		}
		_, _ = out.WriteString("]")
		_ = out.Flush() // fails if the client is gone, or the request was ended
	}
	if why := ended(r.Context()); why != nil {
		return why
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// send answers with the content of a file, or with the range that the request names.
func send(w http.ResponseWriter, r *http.Request, root *os.File, o object) error {
	f, err := openObject(root, o)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// remove removes a lock or a snapshot.
func (d *Directory) remove(root *os.File, o object, a Access) error {
	if o.kind != kindLocks && o.kind != kindSnapshots {
		return refuse(http.StatusForbidden, "this server never removes %s", o.kind)
	}
	if o.kind == kindSnapshots && !a.Push {
		return refuse(http.StatusForbidden, "the token lacks the right to push")
	}
	folder, err := openFolder(root, o)
	if err != nil {
		return err
	}
	defer folder.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(folder.Fd()), o.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: o.name, Err: err}
	}
	if err := unix.Unlinkat(int(folder.Fd()), o.name, 0); err != nil {
		return &fs.PathError{Op: "remove", Path: o.name, Err: err}
	}
	d.release(o, st.Size)
	return nil
}

// steady is a response. A write fails if the client accepts no data for the time idle, or if the request has ended.
type steady struct {
	http.ResponseWriter
	request context.Context
	control *http.ResponseController
	begun   bool // a part of the body was written
}

// endWith makes reads of the body of a request fail when the caller of Serve ends the request, and writes of the
// response to a request without a body. Without it, they would wait for a slow client. The caller must call the
// returned function.
func (s *steady) endWith(r *http.Request) (forget func() bool) {
	past := time.Unix(1, 0)
	end := s.control.SetReadDeadline
	if r.Method != http.MethodPost {
		end = s.control.SetWriteDeadline
	}
	return context.AfterFunc(r.Context(), func() {
		if ended(r.Context()) != nil {
			_ = end(past) // a recorder of a test has no deadlines
		}
	})
}

// ended returns the Refusal with which the caller of Serve has ended a request; nil if it has not. A function that sets
// a deadline must call ended afterwards: endWith may have set the deadline before.
func ended(ctx context.Context) error {
	var no *Refusal
	if errors.As(context.Cause(ctx), &no) {
		return no
	}
	return nil
}

func (s *steady) extend() {
	_ = s.control.SetWriteDeadline(clock.Deadline(idle)) // a recorder of a test has no deadlines
}

func (s *steady) Write(p []byte) (int, error) {
	s.extend()
	if err := ended(s.request); err != nil {
		return 0, err
	}
	s.begun = true
	return s.ResponseWriter.Write(p)
}

// Unwrap lets an http.ResponseController reach the connection.
func (s *steady) Unwrap() http.ResponseWriter { return s.ResponseWriter }
