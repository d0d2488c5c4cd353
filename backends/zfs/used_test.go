package zfs_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
)

// TestUsedIsCheap counts the commands of Used: none for a mounted dataset, and one in several seconds for all others
// together.
func TestUsedIsCheap(t *testing.T) {
	b := newBench(t)
	var idle []uuid.UUID
	for range 3 {
		idle = append(idle, b.create().ID)
	}
	mounted := b.create()
	b.write(mounted.ID, "content")
	now := clock.NewFake(time.Unix(0, 0))
	b.clock = now
	b.open() // a Pool without a listing of these datasets
	dir := b.mount(mounted.ID)
	defer func() { b.ok(mount.Unmount(dir)) }()
	used := func(what string, commands int, ids ...uuid.UUID) {
		t.Helper()
		b.asked, b.done = 0, nil
		for _, id := range ids {
			if n, err := b.pool.Used(t.Context(), id); err != nil || n <= 0 || n > dataset.MiB {
				t.Errorf("%s: %d bytes, %v", what, n, err)
			}
		}
		if b.asked != commands || len(b.done) > 0 {
			t.Errorf("%s took %d commands that ask, want %d, and %q", what, b.asked, commands, b.done)
		}
	}
	used("a mounted one", 0, mounted.ID, mounted.ID)
	used("three idle ones", 1, idle...)
	now.Advance(3 * time.Second)
	used("again", 0, idle...)
	now.Advance(3 * time.Second)
	used("later", 1, idle...)
	used("one that was made since", 1, b.create().ID)
}
