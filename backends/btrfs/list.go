package btrfs

import (
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
)

// describe returns a function that adds to an entry its snapshots, and the problems of the folder.
func describe(q *quota) func(*shelf.Folder, *backends.Entry) {
	return func(f *shelf.Folder, e *backends.Entry) {
		shelf.DescribeTrees(f, e)
		if names, err := f.ForeignNames(); err != nil {
			shelf.AddProblem(e, err)
		} else if len(names) > 0 {
			shelf.AddProblem(e, foreignError(f, names))
		}
		head, err := f.Head()
		if err != nil {
			return // DescribeTrees reports it
		}
		if f.State == backends.EntryCopy {
			describeCopy(f, head, e)
			return
		}
		describeHead(q, f, head, e)
	}
}

// describeHead adds to the entry of a dataset the problems of its head.
func describeHead(q *quota, f *shelf.Folder, head shelf.Head, e *backends.Entry) {
	dir, err := openSubvolume(f, head.Tree)
	if err != nil {
		if _, statErr := f.Lstat(head.Tree); statErr == nil { // DescribeTrees reports it otherwise
			shelf.AddProblem(e, err)
		}
		return
	}
	defer dir.Close()
	if err := q.Verify(dir, head.Size); err != nil && f.State == backends.EntryReady {
		shelf.AddProblem(e, err)
	}
	if err := checkNested(f, dir); err != nil {
		shelf.AddProblem(e, err)
	}
}

// describeCopy adds to the entry of a copy whether it has a head, and the received part of a snapshot.
func describeCopy(f *shelf.Folder, head shelf.Head, e *backends.Entry) {
	_, err := f.Lstat(head.Tree)
	e.Promoted = err == nil
	e.Partial = stream.Partial(f.Dir)
}

// foreignError returns the error for names in a folder that Drover did not make.
func foreignError(f *shelf.Folder, names []string) error {
	return dataset.Errorf(dataset.ErrCorrupt,
		"dataset %s: its folder contains %s, which drover did not create: move it elsewhere", f.ID,
		dataset.FormatChoices(names))
}
