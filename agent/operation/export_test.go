package operation

// SetMembership replaces the membership of this node, and returns the former one.
func (o *Operations) SetMembership(m Membership) (was Membership) {
	was, o.membership = o.membership, m
	return was
}
