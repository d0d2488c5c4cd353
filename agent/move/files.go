package move

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// Files says which tree of files to copy, and where.
type Files struct {
	Peer     string // https://HOST:PORT of the agent that has it
	Dataset  uuid.UUID
	Snapshot uuid.UUID // if uuid.Nil, the dataset itself, which must not be in use
	Into     *os.File  // open, empty directory: the root of a dataset that is not in use
	// Manifest lists the expected files. The home that relinquished the dataset wrote it (SumFiles). If nil, the
	// files are not checked.
	Manifest *dataset.Manifest
	Progress backends.Progress // called with bytes; the total is that of the manifest, or 0. May be nil.
}

// SumFiles returns the manifest of a tree. It reads all of the tree, writes the bytes to seen, and sends nothing.
// Repeated calls return the same result as long as the tree does not change.
func SumFiles(ctx context.Context, root *os.File, seen io.Writer) (dataset.Manifest, error) {
	sent, err := writeFiles(ctx, root, seen)
	return dataset.Manifest{Bytes: sent.Bytes, SHA256: sent.Sum}, err
}

// writeFiles writes a tree as a tar archive. Unlike other archives it includes sockets.
func writeFiles(ctx context.Context, root *os.File, w io.Writer) (backends.Stream, error) {
	all := &checksumWriter{sum: sha256.New()}
	err := tree.WriteTar(ctx, root, io.MultiWriter(w, all), tree.ForReadTar())
	return all.stream(), err
}

// checksumWriter counts the bytes of a stream and computes its checksum.
type checksumWriter struct {
	sum   hash.Hash
	bytes int64
}

func (t *checksumWriter) Write(b []byte) (int, error) {
	t.bytes += int64(len(b))
	return t.sum.Write(b)
}

func (t *checksumWriter) stream() backends.Stream {
	return backends.Stream{Bytes: t.bytes, Sum: hex.EncodeToString(t.sum.Sum(nil))}
}

func (s *Server) files(w http.ResponseWriter, r *request) (err error) {
	snapshot, err := parseID("snapshot", r.PathValue("snapshot"))
	if err != nil {
		return err
	}
	defer s.markInUse(r.dataset, snapshot)()
	root, release, err := s.Source.OpenTree(r.Context(), r.dataset, snapshot)
	if err != nil {
		return err
	}
	defer func() {
		if cErr := errors.Join(root.Close(), release()); cErr != nil {
			s.log(r).WithError(cErr).Error("cannot release a resource of a transfer")
		}
	}()
	return s.send(r.Context(), w, r, func(ctx context.Context, w io.Writer) (any, error) {
		return writeFiles(ctx, root, w)
	})
}

// PullFiles copies the tree of files of a dataset: owners, modes, times, attributes, ACLs, hard links, holes,
// devices, FIFOs and sockets, but neither access times nor snapshots. After an interruption it starts again from the
// beginning. The copy is durable when it returns.
//
// It returns the errors of Pull, and dataset.ErrExists if the directory is not empty. After an error it has removed
// everything that it wrote. If the process ends before that, the caller removes the whole dataset.
func (c *Client) PullFiles(ctx context.Context, f Files) (dataset.Manifest, error) {
	var out dataset.Manifest
	corrupt := 0
	var once loggedOnce
	err := c.retry(ctx, func() (bool, error) {
		got, began, err := c.pullFiles(ctx, f, &once)
		if err == nil {
			out = dataset.Manifest{Snapshot: f.Snapshot, Bytes: got.Bytes, SHA256: got.Sum}
			return false, nil
		}
		if began {
			err = errors.Join(err, removeFiles(ctx, f.Into))
		}
		if isKind(err, dataset.ErrCorrupt) && !isPeer(err) {
			if corrupt++; corrupt < maxAttempts {
				once.log(c, f.Dataset, f.Peer, err)
				err = connectionError{err}
			}
		}
		return false, err
	})
	if err != nil {
		return out, fmt.Errorf("fetch the files of dataset %s from %s: %w", f.Dataset, f.Peer, err)
	}
	return out, nil
}

// pullFiles makes one attempt, and reports whether it may have written to the directory.
func (c *Client) pullFiles(ctx context.Context, f Files, once *loggedOnce) (
	got backends.Stream, began bool, err error,
) {
	if err := checkEmpty(f.Into); err != nil {
		return got, false, err
	}
	body, err := c.open(ctx, http.MethodGet, address(f.Peer, f.Dataset, nil, "snapshots", f.Snapshot.String(), "files"))
	if err != nil {
		return got, false, err
	}
	defer body.Close()
	in := &frameReader{r: &limitedReader{ctx: ctx, r: body, limit: c.Limit}}
	defer in.close()
	all := &checksumWriter{sum: sha256.New()}
	progress := &progressWriter{to: f.Progress, all: all}
	if f.Manifest != nil {
		progress.total = f.Manifest.Bytes
	}
	err = tree.ReadTar(ctx, io.TeeReader(in, io.MultiWriter(all, progress)), f.Into, tree.WithSync())
	got = all.stream()
	if errors.Is(in.err, errFrame) {
		once.log(c, f.Dataset, f.Peer, in.err)
	}
	if err == nil {
		err = f.verify(in, got)
	} else if in.err != nil && !errors.Is(in.err, io.EOF) && !errors.As(in.err, new(*peerError)) {
		err = connectionError{err}
	}
	return got, true, err
}

// progressWriter is a writer that reports progress.
type progressWriter struct {
	to    backends.Progress
	all   *checksumWriter
	total int64
}

func (t *progressWriter) Write(b []byte) (int, error) {
	if t.to != nil {
		t.to(t.all.bytes, t.total)
	}
	if t.total > 0 && t.all.bytes > t.total {
		return 0, dataset.Errorf(dataset.ErrCorrupt, "the peer sends more than the %d bytes that its home gave up",
			t.total)
	}
	return len(b), nil
}

// verify compares the received files with the sums of the peer and with the manifest.
func (f Files) verify(in *frameReader, got backends.Stream) error {
	var sent backends.Stream
	if !errors.Is(in.err, io.EOF) {
		return connectionError{io.ErrUnexpectedEOF}
	}
	if err := json.Unmarshal(in.end, &sent); err != nil || sent != got {
		return dataset.Errorf(dataset.ErrCorrupt,
			"received %d bytes with checksum %.12s, and the peer sent %d with %.12s", got.Bytes, got.Sum, sent.Bytes,
			sent.Sum)
	}
	if m := f.Manifest; m != nil && (m.Bytes != got.Bytes || m.SHA256 != got.Sum) {
		return dataset.Errorf(dataset.ErrCorrupt,
			"received %d bytes with checksum %.12s, and its home gave up %d with "+
				"%.12s", got.Bytes, got.Sum, m.Bytes, m.SHA256)
	}
	return nil
}

func names(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return dir.Readdirnames(-1)
}

func checkEmpty(dir *os.File) error {
	have, err := names(dir)
	if err == nil && len(have) > 0 {
		err = dataset.Errorf(dataset.ErrExists, "the target folder contains %q", have[0])
	}
	return err
}

// removeFiles removes the files of a failed attempt, even if ctx has ended.
func removeFiles(ctx context.Context, dir *os.File) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultIdle)
	defer cancel()
	have, err := names(dir)
	for _, name := range have {
		err = errors.Join(err, tree.Remove(ctx, dir, name))
	}
	return err
}
