package lease

// NeedsPromises reports whether what control says is not sufficient to keep datasets open here, so that promises of
// other nodes are needed.
func (b *Deadlines) NeedsPromises() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.needsPromises()
}
