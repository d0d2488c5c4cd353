// Package profiles has the commands of drover profile.
package profiles
