"""Reading commits, trees and blobs."""
