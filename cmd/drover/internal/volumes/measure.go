package volumes

import (
	"context"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// measureWithin bounds how long snapshot ls --size measures snapshots. tableWithin bounds it for a table without
// --size.
const (
	measureWithin = 30 * time.Second
	tableWithin   = 2 * time.Second
)

// measured is a snapshot with the space that its deletion frees, if that was measured.
type measured struct {
	dataset.Snapshot
	Unique *dataset.Size `json:"unique,omitempty"` // bytes that only the snapshot uses
}

// measure measures a snapshot. It returns why the space is not known, or nil.
func (m *measured) measure(ctx context.Context, c cli.Remote) error {
	space, err := c.SnapshotSpace(ctx, m.ID.String())
	if err == nil {
		m.Unique = &space.Unique
	}
	return err
}

// uniqueText says how much space the deletion of a snapshot frees, or why that is not known.
func uniqueText(m measured, why error) string {
	if m.Unique == nil {
		return "not known: " + why.Error()
	}
	return m.Unique.Human() + ", which its deletion frees"
}
