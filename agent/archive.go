package agent

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// unpackSent unpacks an archive that comes with a request. An archive that is damaged or truncated is
// dataset.ErrInvalid: the sender is at fault, and no data of Drover is damaged.
func unpackSent(ctx context.Context, r io.Reader, root *os.File) error {
	err := tree.ReadTar(ctx, sent{r}, root)
	if errors.Is(err, dataset.ErrCorrupt) {
		err = dataset.Errorf(dataset.ErrInvalid,
			"the archive is not whole or no tar: %w (make it again, uncompressed, and send it again)", err)
	}
	return err
}

// sent gives errors of a sender's stream their kind.
type sent struct{ r io.Reader }

func (s sent) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = dataset.Errorf(dataset.ErrInvalid, "the archive broke off while it was sent: %w", err)
	}
	return n, err
}
