package backup_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/run"
)

// releaseKind is backend loop. It calls released for each release of segments.
type releaseKind struct {
	agenttest.FusedBackend
	released func()
}

func (k releaseKind) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := k.FusedBackend.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return releasePool{p.(agenttest.FusedImager), k.released}, nil
}

type releasePool struct {
	agenttest.FusedImager
	released func()
}

func (p releasePool) Segments(ctx context.Context, id, clone uuid.UUID) (backends.SegmentedImage, error) {
	is, err := p.FusedImager.Segments(ctx, id, clone)
	if release := is.Release; err == nil {
		is.Release = func() { release(); p.released() }
	}
	return is, err
}

// A backup releases the segments of its image once, after restic has stored them. The pool must not remove them before.
func TestBackupReleasesSegments(t *testing.T) {
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	f.A = f.AddHost("host-a", "loop")
	t.Cleanup(f.Close)
	stored := make(chan int, 10)
	f.A.Config.Backends = backends.NewRegistry(releaseKind{
		agenttest.FusedBackend{Kind: loop.New(&run.System{}), Host: f.A},
		func() {
			list, err := f.A.VolumeBackups(t.Context(), "offsite", "db")
			if err != nil {
				t.Error(err)
			}
			stored <- len(list.Items)
		},
	})
	f.A.Start()
	newRepository(t, f)
	f.A.NewVolume("db@image")
	for want := 1; want <= 2; want++ {
		backUp(f, "db", "")
		if len(stored) != 1 {
			t.Fatalf("backup %d: the segments were released %d times", want, len(stored))
		}
		if got := <-stored; got != want {
			t.Errorf("backup %d: the segments were released when %d backups were stored", want, got)
		}
	}
}
