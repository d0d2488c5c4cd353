package snapshots

import (
	"context"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// Bounds of how long a list measures snapshots: if the user asks for it, and if its table only shows what it can.
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
