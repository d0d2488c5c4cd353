package backends

import "context"

type freezeKey struct{}

// WhileFrozen runs take while no process can write to a dataset, where that is possible. exact reports whether what
// take copied is exact: see dataset.Snapshot.
type WhileFrozen func(take func() error) (exact bool, err error)

// WithFreeze returns a context for one call of Snapshot, or of Clone without a snapshot. The pool copies the head
// inside of the given function.
func WithFreeze(ctx context.Context, freeze WhileFrozen) context.Context {
	return context.WithValue(ctx, freezeKey{}, freeze)
}

// Frozen runs take, which copies a head, inside of the function of WithFreeze. Without such a function, the copy is not
// exact. Pools whose copies are never exact need not call it.
func Frozen(ctx context.Context, take func() error) (exact bool, err error) {
	if freeze, ok := ctx.Value(freezeKey{}).(WhileFrozen); ok {
		return freeze(take)
	}
	return false, take()
}
