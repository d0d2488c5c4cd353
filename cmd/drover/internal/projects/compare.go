package projects

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// compare compares a volume of Drover with a folder of this host: names, kinds, content, owners, modes, modification
// times, extended attributes with ACLs, hard links, targets of symbolic links, and device numbers. It fails with
// dataset.ErrConflict, and names the first difference. Sockets are not compared: they have no content, and the archive
// of a volume does not contain them. Both sides are read as archives, because the command line cannot mount a volume.
func compare(ctx context.Context, c cli.Remote, volume, folder string) error {
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := archiveOf(func(w io.Writer) error { return tree.WriteTar(ctx, dir, w) })
	b := archiveOf(func(w io.Writer) error {
		_, err := c.Export(ctx, volume, "", w)
		return err
	})
	err = compareArchives(tar.NewReader(a), tar.NewReader(b), folder, volume)
	cancel()
	// The writers end at the next write, if they have not ended.
	return errors.Join(err, a.end(), b.end())
}

// archive is an archive that a goroutine writes while it is read.
type archive struct {
	*io.PipeReader
	done chan struct{}
}

func archiveOf(write func(io.Writer) error) archive {
	r, w := io.Pipe()
	a := archive{r, make(chan struct{})}
	go func() {
		defer close(a.done)
		w.CloseWithError(write(w))
	}()
	return a
}

// end waits for the writer.
func (a archive) end() error {
	err := a.Close()
	<-a.done
	return err
}

func compareArchives(a, b *tar.Reader, folder, volume string) error {
	for {
		ha, errA := a.Next()
		hb, errB := b.Next()
		switch {
		case errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF):
			return nil
		case errA != nil && !errors.Is(errA, io.EOF):
			return fmt.Errorf("read %s: %w", folder, errA)
		case errB != nil && !errors.Is(errB, io.EOF):
			return fmt.Errorf("read volume %s: %w", volume, errB)
		case errA != nil || errB != nil || ha.Name != hb.Name:
			return differs(folder, volume, firstName(ha, hb), "one of them lacks it")
		}
		if what := headerDifference(ha, hb); what != "" {
			return differs(folder, volume, ha.Name, what)
		}
		same, err := sameContent(a, b)
		if err != nil {
			return fmt.Errorf("compare %s with volume %s: %w", folder, volume, err)
		}
		if !same {
			return differs(folder, volume, ha.Name, "content")
		}
	}
}

// firstName returns the name that only one archive has: both have their names in the same order.
func firstName(a, b *tar.Header) string {
	switch {
	case a == nil:
		return b.Name
	case b == nil || a.Name < b.Name:
		return a.Name
	}
	return b.Name
}

func differs(folder, volume, name, what string) error {
	return dataset.Errorf(dataset.ErrConflict, "%s and volume %s differ: %q: %s (something has written to one of "+
		"them; undo the move with --undo, and begin "+
		"again)", folder, volume, dataset.Clip(strings.TrimPrefix(name, "./")), what)
}

// headerDifference returns the property in which two files differ, or "".
func headerDifference(a, b *tar.Header) string {
	switch {
	case a.Typeflag != b.Typeflag || a.Devmajor != b.Devmajor || a.Devminor != b.Devminor:
		return "kind"
	case a.Linkname != b.Linkname:
		return "link"
	case a.Size != b.Size:
		return "size"
	case a.Mode != b.Mode:
		return "mode"
	case a.Uid != b.Uid || a.Gid != b.Gid:
		return "owner"
	case !a.ModTime.Equal(b.ModTime):
		return "modification time"
	case !maps.Equal(attributes(a), attributes(b)):
		return "extended attributes"
	}
	return ""
}

func attributes(h *tar.Header) map[string]string {
	out := maps.Clone(h.PAXRecords)
	maps.DeleteFunc(out, func(name, _ string) bool { return !strings.HasPrefix(name, "SCHILY.xattr.") })
	if len(out) == 0 {
		return nil
	}
	return out
}

// sameContent compares what is left of two readers.
func sameContent(a, b io.Reader) (bool, error) {
	ba, bb := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		na, errA := io.ReadFull(a, ba)
		nb, errB := io.ReadFull(b, bb)
		if !bytes.Equal(ba[:na], bb[:nb]) {
			return false, nil
		}
		endA := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		endB := errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
		switch {
		case errA != nil && !endA:
			return false, errA
		case errB != nil && !endB:
			return false, errB
		case endA && endB:
			return true, nil
		}
	}
}
