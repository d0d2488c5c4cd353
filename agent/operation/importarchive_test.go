package operation_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A damaged archive is an error of its sender: the answer has a status of 4xx, and nothing of the volume stays.
func TestI6ImportOfADamagedArchive(t *testing.T) {
	r := agenttest.New(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o600, Size: 3 << 10}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte("drover"), 512)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole := archive.Bytes()
	flipped := bytes.Clone(whole)
	flipped[100] ^= 1
	for name, c := range map[string]struct {
		sent io.Reader
		says string
	}{
		"a flipped bit":    {bytes.NewReader(flipped), "invalid tar header"},
		"cut in a file":    {bytes.NewReader(whole[:2<<10]), "is damaged or truncated"},
		"without its end":  {bytes.NewReader(whole[:len(whole)-1024]), "no end mark"},
		"compressed":       {strings.NewReader("\x1f\x8b\x08\x00" + strings.Repeat("x", 4096)), "not a tar archive"},
		"empty":            {strings.NewReader(""), "no end mark"},
		"no tar at all":    {strings.NewReader(strings.Repeat("SELECT 1;\n", 100)), "not a tar archive"},
		"sender went away": {io.MultiReader(bytes.NewReader(whole[:600]), iotest.ErrReader(io.ErrUnexpectedEOF)), "the archive ended early"},
	} {
		_, err := r.Import(t.Context(), api.Request{ID: uuid.New(), Volume: "db"}, c.sent)
		if !errors.Is(err, dataset.ErrInvalid) || dataset.KindOf(err).HTTP/100 != 4 || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v (%v)", name, err, dataset.KindOf(err))
		}
		if left := r.ListPool("incoming"); len(left) != 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// An archive is imported with the operation ID that its caller chose. An ID that belongs to another operation is
// refused.
func TestImportUsesTheCallersOperationID(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	var archive bytes.Buffer
	if err := tar.NewWriter(&archive).Close(); err != nil {
		t.Fatal(err)
	}
	used, err := r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpCreate, Volume: "db"})
	if err != nil {
		t.Fatal(err)
	}
	req := api.Request{ID: used.Operation.ID, Volume: "new"}
	if _, err := r.Import(ctx, req, bytes.NewReader(archive.Bytes())); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("with an ID that is used: %v", err)
	}
	req.ID = uuid.New()
	d, err := r.Import(ctx, req, bytes.NewReader(archive.Bytes()))
	if err != nil || d.Request != req.ID {
		t.Errorf("made by %s, want %s: %v", d.Request, req.ID, err)
	}
}
